from __future__ import annotations

import json
import math
import random
import tomllib
from pathlib import Path

import pytest
import typer
from support_vlm import GOOD, GOOD_REPLY, MODEL, Act, is_control, logprobs_of, serving
from tagmoe.annotate.runner import annotate
from tagmoe.annotate.vlm.calibrate import fit_calibration, fit_scope_temperature, fit_temperature
from tagmoe.annotate.vlm.commands import register
from tagmoe.schema import ConfigError
from tagmoe.schema.configs.annotate import AnnotateConfig
from tagmoe.schema.configs.vlm import VlmConfig
from typer.testing import CliRunner


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_the_temperature_that_was_applied_is_found():
    draw = random.Random(0)
    logits = [draw.gauss(0, 2) for _ in range(4000)]
    decisions = [(sigmoid(3.0 * z), draw.random() < sigmoid(z)) for z in logits]
    assert fit_temperature(decisions) == pytest.approx(3.0, rel=0.1)
    assert fit_temperature([]) == 1.0


def test_the_same_for_choices():
    draw = random.Random(1)
    decisions = []
    for _ in range(3000):
        logits = [draw.gauss(0, 1.5) for _ in range(4)]
        weights = [math.exp(z) for z in logits]
        sharp = [math.exp(2.0 * z) for z in logits]
        decisions.append(([w / sum(sharp) for w in sharp], draw.choices(range(4), weights)[0]))
    assert fit_scope_temperature(decisions) == pytest.approx(2.0, rel=0.1)


def test_a_gold_file_becomes_a_setting_that_the_annotator_takes(tmp_path: Path):
    """One type decision at 0.99 is right three times out of four: its odds of 99 should become odds of about 3."""
    at = GOOD_REPLY.index('"attribute editing":true') + len('"attribute editing":')
    tokens = logprobs_of(GOOD_REPLY, at={at: {"true": 0.99, "false": 0.01}})
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = [{"id": f"r{i}", "task": "edit", "instruction": f"Paint thing {i} blue."} for i in range(24)]
    (corpus / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    gold = [{"corpus": "corpus", "id": f"r{i}", "tags": [t for t in GOOD if i % 4 or t != GOOD[1]]} for i in range(24)]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, gold)))
    with serving(lambda body, _: Act(content=GOOD_REPLY, logprobs=None if is_control(body) else tokens)) as [server]:
        settings = {"model": MODEL, "server": {"endpoints": [server.url]}}
        config = AnnotateConfig.model_validate(
            {"corpus": {"uri": str(corpus)}, "annotator": "server", "workers": 1, "vlm": settings}
        )
        annotate(config, out=tmp_path / "run", quiet=True)
    fit = fit_calibration(tmp_path / "run", gold=tmp_path / "gold.jsonl", name="gold@1")
    assert fit.records == 24
    # The other five types are certain and right, so their loss falls with the temperature: T settles below ln 99 / ln 3.
    assert 1.5 < fit.temperatures.types < math.log(99) / math.log(3)
    assert fit.loss_after < fit.loss_before
    parsed = tomllib.loads(fit.toml())["vlm"]
    assert VlmConfig.model_validate(parsed).calibration.name == "gold@1"
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    result = CliRunner().invoke(app, ["fit-vlm", str(tmp_path / "run"), "--gold", str(tmp_path / "gold.jsonl")])
    assert result.exit_code == 0, result.output
    assert tomllib.loads(result.output)["vlm"]["calibration"]["name"] == "gold"


def test_too_few_verified_records_are_an_error(tmp_path: Path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "manifest.jsonl").write_text(json.dumps({"id": "r0", "task": "edit", "instruction": "Paint it blue."}))
    (tmp_path / "gold.jsonl").write_text(json.dumps({"corpus": "corpus", "id": "r0", "tags": list(GOOD)}))
    annotate(
        AnnotateConfig.model_validate({"corpus": {"uri": str(corpus)}, "workers": 1}), out=tmp_path / "run", quiet=True
    )
    with pytest.raises(ConfigError, match=r"1 verified records .* at least 20"):
        fit_calibration(tmp_path / "run", gold=tmp_path / "gold.jsonl", name="gold")
