"""The ranked queues find what was planted, and say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_audit import LOCAL_RECOLOR, make_evidence, make_image, make_record, write_run
from tagmoe.annotate.audit import faults, label_errors
from tagmoe.annotate.audit.columns import Columns
from tagmoe.annotate.audit.consensus import Features, by_kernel, by_weights, predict_tags
from tagmoe.annotate.audit.duplicates import find_duplicates, picture_groups
from tagmoe.annotate.audit.embedded import read_records
from tagmoe.annotate.audit.opinions import choose_readings, gather_opinions
from tagmoe.annotate.audit.orientation import backward_probability, requests_of
from tagmoe.annotate.audit.queues import QUEUES, cut, rank_all, ranked
from tagmoe.annotate.audit.reading import load_columns
from tagmoe.annotate.audit.sampling import Verified, nothing_verified, plan
from tagmoe.annotate.audit.statistics import auroc
from tagmoe.annotate.audit.teaching import teaching_value
from tagmoe.annotate.audit.textfeatures import BUCKETS, TextVectors, buckets_of
from tagmoe.annotate.local.annotator import LocalAnnotator
from tagmoe.schema import Run
from tagmoe.schema.configs.audit import AuditConfig

STYLE = ("global editing", "style transfer", "structure preservation", "identity preservation")
CONFIG = AuditConfig(second_readings=0)


def columns_of(folder: Path, records) -> tuple[Run, Columns]:
    run = Run.open(write_run(folder / "run", records))
    return run, load_columns(run)


def test_noop_ranks_by_how_little_changed(tmp_path: Path):
    amounts = [(0.0, 0.0), (0.001, 0.05), (0.02, 0.2), (0.5, 0.3)]
    evidence = [
        make_evidence(changed_fraction=f, changed_strength=s, residual=f / 10, palette_distance=f / 2)
        for f, s in amounts
    ]
    records = [make_record(i, evidence=e) for i, e in enumerate(evidence)] + [make_record(9, evidence=None)]
    scores = faults.noop(columns_of(tmp_path, records)[1])
    assert (np.diff(scores[:4]) < 0).all()
    assert scores[0] == 1
    assert scores[0] >= 0.5 > scores[2]
    assert np.isnan(scores[4])


def test_a_target_that_another_record_owns_is_foreign(tmp_path: Path):
    mine, other = 0x0F0F_3355_AACC_F00D, 0x1234_5678_9ABC_DEF0
    unlike = make_evidence(edge_similarity=0.2)
    records = [
        make_record(0, images=(make_image("source", phash=mine), make_image("target", phash=other)), evidence=unlike),
        make_record(
            1, images=(make_image("source", phash=other), make_image("target", phash=other ^ 1)), evidence=unlike
        ),
        make_record(2, evidence=unlike),
    ]
    columns = columns_of(tmp_path, records)[1]
    scores = faults.foreign_target(columns, picture_groups(columns, bits=4))
    assert scores[0] == pytest.approx(scores[2] + 0.5 * (1 - 0.2))
    assert scores[1] == scores[2]


def test_edits_of_several_turns_are_no_faults(tmp_path: Path):
    """Each target is the source of two further records, and each pair is alike."""
    hashes = [int(h) for h in np.random.default_rng(5).integers(1, 1 << 63, 40)]
    records = [
        make_record(i, images=(make_image("source", phash=hashes[i // 2]), make_image("target", phash=hashes[i + 1])))
        for i in range(30)
    ]
    columns = columns_of(tmp_path, records)[1]
    pictures = picture_groups(columns, bits=4)
    alone = columns_of(tmp_path / "alone", [make_record(0)])[1]
    usual = faults.foreign_target(alone, picture_groups(alone, bits=4))[0]
    assert (faults.foreign_target(columns, pictures) < usual + 0.06).all()
    half = np.full(30, 0.5, np.float32)
    assert (faults.swapped(columns, pictures, half) == 0.5).all()


def test_misregistration_counts_unless_the_camera_was_asked_to_move(tmp_path: Path):
    moved = make_evidence(shift_x=0.05, alignment_gain=0.6)
    asked = ("viewpoint editing", "identity preservation")
    records = [make_record(0, evidence=moved), make_record(1), make_record(2, asked, evidence=moved)]
    scores = faults.misregistered(columns_of(tmp_path, records)[1])
    assert scores[0] > 0.25 > scores[1] == 0
    assert np.isnan(scores[2])


def _corpus_with_labels(count: int, wrong: set[int]) -> list:
    rng = np.random.default_rng(0)
    nouns = ["cat", "house", "car", "girl", "tree", "boat", "cup"]
    records = []
    for row in range(count):
        noun = nouns[row % 7]
        local = row % 2 == 0
        text = f"make the {noun} red" if local else f"turn this {noun} photo into an oil painting"
        changed = rng.uniform(0.02, 0.2) if local else rng.uniform(0.6, 1.0)
        tags = (LOCAL_RECOLOR if local else STYLE) if row not in wrong else (STYLE if local else LOCAL_RECOLOR)
        records.append(make_record(row, tags, instruction=text, evidence=make_evidence(changed_fraction=changed)))
    return records


def test_the_rest_of_the_corpus_finds_wrong_labels(tmp_path: Path):
    wrong = {4, 17, 33, 58, 71, 90}
    run, columns = columns_of(tmp_path, _corpus_with_labels(120, wrong))
    chances = predict_tags(columns, TextVectors(run), seed=0)
    assert chances[:, [0, 1, 2, 3, 4, 5, 17]].sum(axis=1) == pytest.approx(np.ones(120), abs=1e-5)
    labels = np.isin(np.arange(120), list(wrong))
    assert auroc(label_errors.scope_margin(columns, chances), labels) > 0.98
    assert auroc(label_errors.surprise(columns, chances), labels) > 0.98
    said = label_errors.odd_tags(columns, chances, 4)
    assert any("style transfer given" in text or "global editing given" in text for text in said)


def test_both_ways_to_solve_the_regression_agree(tmp_path: Path):
    run, columns = columns_of(tmp_path, _corpus_with_labels(80, {3, 9}))
    features = Features(columns, TextVectors(run))
    fold = np.arange(80) % 5
    few, many = (way(features, columns.tags, fold, seed=0) for way in (by_kernel, by_weights))
    assert few == pytest.approx(many, abs=2e-3)


def test_a_record_never_votes_on_itself(tmp_path: Path):
    """Flipping one record's tags must not move its own prediction, only those of others."""
    run, columns = columns_of(tmp_path / "a", _corpus_with_labels(60, set()))
    run2, columns2 = columns_of(tmp_path / "b", _corpus_with_labels(60, {10}))
    before = predict_tags(columns, TextVectors(run), seed=0)
    after = predict_tags(columns2, TextVectors(run2), seed=0)
    assert after[10] == pytest.approx(before[10], abs=1e-6)
    assert np.abs(after - before).max() > 1e-3


def test_words_in_groups_are_the_sums_of_their_buckets(tmp_path: Path):
    run, _ = columns_of(tmp_path, _corpus_with_labels(30, set()))
    texts = TextVectors(run)
    every = np.arange(30)
    dense = texts.dense(every)
    assert np.linalg.norm(dense, axis=1) == pytest.approx(1)
    assert texts.grouped(every, groups=128) == pytest.approx(dense.reshape(30, 128, -1).sum(axis=2), abs=1e-6)


def test_the_embedded_annotator_reads_the_chosen_records_again(tmp_path: Path):
    texts = ["remove the dog", "turn this into an oil painting", "make the car red"]
    records = [make_record(i, instruction=text) for i, text in enumerate(texts)]
    run, columns = columns_of(tmp_path, records)
    reading = read_records(run, columns, np.array([0, 1]))
    assert reading is not None
    annotator = LocalAnnotator()
    for row, record in enumerate(list(run.annotations())[:2]):
        opinion = annotator.opinion(record.instruction, task="edit", evidence=record.evidence)
        assert reading.tags[row] == pytest.approx(opinion.calibrated, abs=1e-5)
    assert np.isnan(reading.tags[2]).all()
    assert reading.intents is None, "a few records' intents say nothing about the corpus's direction"
    everyone = read_records(run, columns, np.arange(3))
    assert everyone is not None
    assert everyone.intents is not None
    assert everyone.tags[:2] == pytest.approx(reading.tags[:2])
    assert (everyone.intents.max(axis=1) > 0.5).all()
    assert reading.tags[1, 8] > 0.5 > reading.tags[0, 8], "style transfer"


def test_of_a_large_run_only_the_odd_ones_and_a_draw_are_read_again(tmp_path: Path):
    wrong = {4, 17, 33}
    run, columns = columns_of(tmp_path, _corpus_with_labels(100, wrong))
    config = AuditConfig(second_readings=20)
    consensus = predict_tags(columns, TextVectors(run), seed=0)
    chosen = choose_readings(columns, consensus, config=config, drawn=10)
    assert 10 <= len(chosen) <= 20
    assert wrong <= set(chosen.tolist())
    opinions = gather_opinions(run, columns, TextVectors(run), config=config)
    assert opinions.intents is None
    assert not np.isnan(opinions.chances[:, 0]).any()
    assert auroc(label_errors.scope_margin(columns, opinions.chances), np.isin(np.arange(100), list(wrong))) > 0.98


def test_a_run_of_the_embedded_annotator_is_not_its_own_witness(tmp_path: Path):
    run = Run.open(write_run(tmp_path / "run", _corpus_with_labels(40, {4}), annotator="local@1"))
    columns = load_columns(run)
    texts = TextVectors(run)
    opinions = gather_opinions(run, columns, texts, config=AuditConfig())
    assert opinions.chances == pytest.approx(predict_tags(columns, texts, seed=0), nan_ok=True)
    assert opinions.intents is not None


def test_too_few_records_give_no_opinion(tmp_path: Path):
    run, columns = columns_of(tmp_path, [make_record(0), make_record(1)])
    chances = predict_tags(columns, TextVectors(run), seed=0)
    assert np.isnan(chances).all()
    assert np.isnan(label_errors.scope_margin(columns, chances)).all()


def test_blend_prefers_the_opinion_that_predicts_the_tags(tmp_path: Path):
    _, columns = columns_of(tmp_path, [make_record(i) for i in range(40)])
    good = np.where(columns.tags, 0.95, 0.05).astype(np.float32)
    bad = np.where(columns.tags, 0.1, 0.9).astype(np.float32)
    assert label_errors.blend([bad, good], columns) == pytest.approx(good)
    partly = good.copy()
    partly[5:] = np.nan
    mixed = label_errors.blend([bad, partly], columns)
    assert mixed[0] == pytest.approx(good[0])
    assert mixed[6] == pytest.approx(bad[6]), "where one is silent the other speaks"


def test_the_corpus_own_direction_finds_exchanged_pairs(tmp_path: Path):
    """In this corpus edits lose detail and gain colour; five pairs run the other way."""
    rng = np.random.default_rng(3)
    swapped = {7, 22, 40, 61, 88}
    records = []
    for row in range(100):
        sign = -1 if row in swapped else 1
        evidence = make_evidence(
            detail_ratio=sign * rng.normal(-0.3, 0.15),
            saturation_shift=sign * rng.normal(0.1, 0.06),
            luma_shift=rng.normal(0, 0.1),
        )
        records.append(make_record(row, evidence=evidence))
    run, columns = columns_of(tmp_path, records)
    texts = TextVectors(run)
    backward = backward_probability(columns, requests_of(columns, texts, None), seed=0)
    assert auroc(backward, np.isin(np.arange(100), list(swapped))) > 0.97
    few = columns_of(tmp_path / "few", records[:10])[1]
    assert np.isnan(backward_probability(few, requests_of(few, texts, None), seed=0)).all()


def test_a_target_that_others_edit_is_an_exchanged_pair(tmp_path: Path):
    """One record's target is the photo that three other records start from."""
    photo = 0x0123_4567_89AB_CDEF
    records = [
        make_record(i, images=(make_image("source", phash=photo), make_image("target", key=f"t{i}"))) for i in range(3)
    ]
    records += [make_record(3, images=(make_image("source", key="edited"), make_image("target", phash=photo)))]
    records += [make_record(i) for i in range(4, 8)]
    columns = columns_of(tmp_path, records)[1]
    scores = faults.swapped(columns, picture_groups(columns, bits=4), np.full(8, 0.5, np.float32))
    assert scores[3] > 0.9
    assert (np.delete(scores, 3) == 0.5).all()


def test_every_queue_is_ranked_and_explained(tmp_path: Path):
    records = _corpus_with_labels(60, {3, 8})
    records[5] = records[5].model_copy(
        update={"evidence": make_evidence(changed_fraction=0), "warnings": ("noop_pair_0.00",)}
    )
    records[6] = make_record(6, probs={"local editing": 0.52})
    records[9] = make_record(9, ("local editing", "background editing", "background preservation"))
    records[11] = make_record(11, ("local editing", "identity preservation"))
    run, columns = columns_of(tmp_path, records)
    pictures = picture_groups(columns, bits=4)
    rankings = rank_all(run, columns, pictures, verified=nothing_verified(columns), config=CONFIG)
    assert tuple(r.name for r in rankings) == tuple(n for n in QUEUES if n not in ("disagreement", "gold_differs"))
    queues = {r.name: cut(r, columns, length=10) for r in rankings}
    assert queues["noop"].entries[0].row == 5
    assert queues["contradictions"].entries[0].reason == "noop pair"
    assert [(e.row, e.reason, e.score) for e in queues["broken_rules"].entries] == [
        (9, "background editing excludes background preservation", 1.0), (11, "edits have a type", 0.1),
    ]  # fmt: skip
    assert queues["broken_rules"].flagged == 1
    assert [e.row for e in queues["uncertain"].entries] == [6]
    assert {e.row for e in queues["wrong_scope"].entries[:2]} == {3, 8}
    assert queues["wrong_scope"].flagged >= 2
    for queue in queues.values():
        assert queue.scored >= queue.flagged
        assert all(entry.reason and entry.uid for entry in queue.entries)
        assert [e.score for e in queue.entries] == sorted((e.score for e in queue.entries), reverse=True)
    for ranking in rankings:
        assert len(set(ranked(ranking).tolist())) == len(ranked(ranking))


def test_text_vectors_are_the_same_every_day(tmp_path: Path):
    assert buckets_of("Make the CAT red") == buckets_of("make the cat RED!!")
    assert buckets_of("") == []
    assert len(buckets_of("\u732b\u3092\u8d64\u304f")) > 3, "languages without spaces are read by character"
    run, _ = columns_of(tmp_path, [make_record(0, instruction="a b"), make_record(1, instruction="!"), make_record(2)])
    texts = TextVectors(run)
    dense = texts.dense(np.array([2, 0, 1]))
    assert dense.shape == (3, BUCKETS)
    assert np.linalg.norm(dense, axis=1) == pytest.approx([1, 1, 0])
    assert set(np.flatnonzero(dense[1])) == set(buckets_of("a b"))


def test_duplicates_and_leaks(tmp_path: Path):
    same = {"instruction": "Make it  red"}
    pictures = (make_image("source", phash=0x00FF_00FF_00FF_0F0F), make_image("target", phash=0x0F0F_0F0F_3333_5555))
    near = (make_image("source", phash=0x00FF_00FF_00FF_0F0E), make_image("target", phash=0x0F0F_0F0F_3333_5551))
    records = [
        make_record(0, images=pictures, **same, extra={"split": "train"}),
        make_record(1, images=near, instruction="make it red", extra={"split": "test"}),
        make_record(2, images=pictures, instruction="make it blue", extra={"split": "train"}),
        make_record(3, images=(make_image("source", key="else"), pictures[1]), extra={"split": "train"}),
        make_record(4, extra={"split": "test"}),
    ]
    columns = columns_of(tmp_path, records)[1]
    found = find_duplicates(columns, picture_groups(columns, bits=4), bits=4)
    assert found.repeated_records == 1
    assert [e.row for e in found.repeated[0].examples] == [0, 1]
    assert found.same_target_groups == 1
    assert found.same_target[0].size == 4
    assert found.shared_source[0].size == 3
    assert found.splits == {"test": 2, "train": 3}
    assert found.leak_groups == 2
    assert found.leaks[0].splits == ["test", "train"]
    exact = find_duplicates(columns, picture_groups(columns, bits=0), bits=0)
    assert exact.repeated_records == 0


def test_white_pictures_are_no_duplicates_of_each_other(tmp_path: Path):
    records = [
        make_record(
            i,
            instruction="same",
            images=(make_image("source", key=f"{i}", phash=0), make_image("target", key=f"{i}", phash=0)),
        )
        for i in range(3)
    ]
    columns = columns_of(tmp_path, records)[1]
    assert find_duplicates(columns, picture_groups(columns, bits=4), bits=4).repeated_records == 0


def test_a_plan_serves_several_tags_and_remembers_what_is_verified(tmp_path: Path):
    columns = columns_of(tmp_path, [make_record(i, STYLE if i % 10 == 0 else LOCAL_RECOLOR) for i in range(2000)])[1]
    report, order = plan(columns, nothing_verified(columns), config=CONFIG)
    strata = {s.name: s for s in report.strata}
    assert strata["all records"].needed == 323
    assert (strata["style transfer"].population, strata["style transfer"].needed) == (200, 132)
    assert strata["face preservation"].needed == 0
    assert len(order) == report.distinct == len(set(order.tolist()))
    assert report.distinct < sum(s.remaining for s in report.strata) / 3, "one record serves all its tags"
    for stratum in report.strata:
        members = np.ones(2000, bool) if stratum.id is None else columns.tags[:, stratum.id]
        assert members[order].sum() >= stratum.remaining
    seen = np.isin(np.arange(2000), order[:300])
    done = Verified(seen=seen, right=np.repeat(seen[:, None], 18, 1), judged=np.repeat(seen[:, None], 18, 1))
    later, rest = plan(columns, done, config=CONFIG)
    assert not set(rest.tolist()) & set(order[:300].tolist())
    assert later.distinct < report.distinct - 300, "what turned out right also lowers the need"


def test_a_look_teaches_more_about_an_unknown_tag(tmp_path: Path):
    records = [make_record(i, probs={"local editing": 0.5}) for i in range(4)] + [
        make_record(4, probs={}),
        make_record(5),
    ]
    columns = columns_of(tmp_path, records)[1]
    fresh = teaching_value(columns, nothing_verified(columns), level=0.95)
    assert fresh[0] > fresh[4] > 0
    assert np.isnan(fresh[5])
    seen = np.arange(6) == 0
    verified = Verified(seen=seen, right=np.repeat(seen[:, None], 18, 1), judged=np.repeat(seen[:, None], 18, 1))
    later = teaching_value(columns, verified, level=0.95)
    assert later[0] == 0
    assert later[1] < fresh[1]
