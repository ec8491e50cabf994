"""The statistics of the routing report on cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tagmoe.schema import load_taxonomy
from tagmoe.train.report import Observations, routing_statistics
from tagmoe.train.report.evaluate import distinct_batches, headline
from tagmoe.train.report.information import mutual_information, nmi_against_chance, normalised_mutual_information
from tagmoe.train.report.picture import draw_routing
from tagmoe.train.report.probe import area_under_curve, linear_probe
from tagmoe.train.report.statistics import embedding_shape
from tagmoe.train.report.table import summary_lines, tag_lines

TAXONOMY = load_taxonomy("tagmoe-18@1")


def test_mutual_information_by_hand():
    information, classes, experts = mutual_information(np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert classes == pytest.approx(math.log(2))
    assert experts == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    by_hand = 0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375) + 0.25 * math.log(0.25 / 0.125)
    assert information == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("table", "expected"),
    [([[5, 0], [0, 5]], 1.0), ([[5, 5], [2, 2]], 0.0), ([[5, 0], [5, 0]], 0.0), ([[3, 4]], 0.0)],
)
def test_normalised_mutual_information_at_its_ends(table, expected):
    assert normalised_mutual_information(np.array(table, dtype=float)) == pytest.approx(expected)


def test_chance_level_is_what_shuffled_labels_give():
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 3, 30), rng.dirichlet(np.ones(4), 30) * 16
    random = nmi_against_chance(labels, noise)
    assert random["nmi"] > 0.005  # small sets are never 0 ...
    assert abs(random["lift"]) < 0.03  # ... which is why the lift is reported
    assert random["p_value"] > 0.05
    perfect = nmi_against_chance(labels, np.eye(4)[labels] * 16)
    assert perfect["nmi"] == pytest.approx(1)
    assert perfect["p_value"] < 0.05


def test_area_under_curve_by_hand():
    assert area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert area_under_curve(np.ones(4), np.array([True, False, True, False])) == 0.5


def test_the_probe_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(1)
    tags = rng.random((200, 3)) < 0.4
    signatures = np.concatenate([tags[:, :1] + 0.1 * rng.normal(size=(200, 1)), rng.normal(size=(200, 2))], axis=1)
    areas = linear_probe(signatures, tags)
    assert areas[0] > 0.99
    assert abs(areas[1] - 0.5) < 0.15
    tags[:, 2] = False
    assert 2 not in linear_probe(signatures, tags)


def test_embedding_shape_tells_collapse_from_spread():
    used = np.ones(4, dtype=np.bool_)
    spread = embedding_shape(np.eye(4), used_K=used)
    assert spread == pytest.approx({"tags": 4, "mean_cosine": 0.0, "effective_rank": 4.0})
    collapsed = embedding_shape(np.ones((4, 6)), used_K=used)
    assert collapsed == pytest.approx({"tags": 4, "mean_cosine": 1.0, "effective_rank": 1.0})


def observations(*, routed: bool, samples: int = 60) -> Observations:
    """Two scopes; in layer 1 each goes to its own expert when `routed`, at random otherwise; expert 3 is dead."""
    rng = np.random.default_rng(0)
    scope = np.arange(samples) % 2
    tags = np.zeros((samples, TAXONOMY.size), dtype=np.bool_)
    tags[np.arange(samples), scope] = True
    tags[:, 16] = rng.random(samples) < 0.5
    counts = np.zeros((samples, 2, 2, 4))
    counts[:, :, 0, :3] = rng.dirichlet(np.ones(3), (samples, 2)) * 16
    experts = scope if routed else rng.integers(0, 2, samples)
    counts[np.arange(samples), :, 1, experts] = 16
    embedding = np.eye(TAXONOMY.size, 24)
    own = tags.astype(float) @ embedding
    predicted = own if routed else own[rng.permutation(samples)]
    return Observations(
        sigmas_V=[0.2, 0.8],
        counts_SVLE=counts,
        signature_SVN=np.repeat(np.eye(4)[experts][:, None], 2, 1),
        predicted_SVD=np.repeat(predicted[:, None], 2, 1),
        flow_SV=np.tile([1.0, 2.0], (samples, 1)),
        tags_SK=tags,
        tasks=["edit"] * samples,
        embedding_KD=embedding,
    )


def test_the_report_separates_task_aware_from_random_routing(tmp_path):
    aware = routing_statistics(observations(routed=True), taxonomy=TAXONOMY)
    random = routing_statistics(observations(routed=False), taxonomy=TAXONOMY)
    assert aware["layers"][1]["scope"]["nmi"] == pytest.approx(1)
    assert aware["layers"][1]["scope_of_edits"]["nmi"] == pytest.approx(1)
    assert random["layers"][1]["scope"]["lift"] < 0.1
    assert aware["layers"][0]["scope"]["lift"] < 0.05
    assert aware["layers"][0]["dead_experts"] == [3]
    assert aware["layers"][1]["tags"]["local editing"]["share"] == [1, 0, 0, 0]
    assert aware["layers"][1]["tags"]["global editing"]["share"] == [0, 1, 0, 0]
    assert aware["alignment"]["cosine"] == pytest.approx(1)
    assert aware["alignment"]["lift"] > 0.3
    assert abs(random["alignment"]["lift"]) < 0.1
    assert aware["probe"]["auc"]["local editing"] == pytest.approx(1)
    assert aware["flow"]["by_tag"]["local editing"] == pytest.approx(1.5)
    assert aware["flow"]["by_noise_level"] == [1.0, 2.0]
    assert headline(aware)["dead_experts"] == 3
    document = {"step": 7, "splits": {"train": aware}}
    assert any("NMI(scope; expert) 1.000" in line for line in summary_lines(document))
    assert sum("local editing" in line for line in tag_lines(document)) == 2
    draw_routing(aware, tmp_path / "r.png", title="t")
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_evaluation_takes_each_sample_once_up_to_the_limit():
    from support_train import ToySource

    taken = distinct_batches(ToySource(), limit=10)
    uids = [sample.uid for batch in taken for sample in batch]
    assert len(uids) == len(set(uids)) == 10
    everything = distinct_batches(ToySource(), limit=1000)
    assert len({sample.uid for batch in everything for sample in batch}) == 32
