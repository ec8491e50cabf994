"""build-shards, verify, inspect and retag as a user calls them: output, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from support_shards import Rec, build, files_of, make_run, mixed
from tagmoe.schema import ConfigError, DataError, FailedGate
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.commands import register
from tagmoe.shards.stream import ShardStream
from typer.testing import CliRunner

app = typer.Typer()
register(app)


def run(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def as_json(*arguments: str | Path):
    result = run(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def made(tmp_path):
    made = make_run(tmp_path, mixed(24))
    assert run("build-shards", made.root, "--out", tmp_path / "shards", "--split", "val=0.2").exit_code == 0
    return made.root, tmp_path / "shards"


def test_build_verify_inspect(made):
    _, shards = made
    code, verdict = as_json("verify", shards)
    assert (code, verdict["ok"], verdict["samples"]) == (0, True, 24)
    code, summary = as_json("inspect", shards)
    assert sum(row["samples"] for row in summary["shards"]) == summary["samples"] == 24
    assert summary["tags"]["local editing"] == 8
    code, record = as_json("inspect", shards, "r0")
    assert (record["id"], record["tag_ids"], record["members"][0]["name"]) == ("r0", [0, 7, 14], "json")
    assert as_json("inspect", shards, record["uid"])[1] == record
    text = run("inspect", shards)
    assert "24" in text.stdout
    assert isinstance(run("inspect", shards, "nothing").exception, ConfigError)


def test_build_says_what_it_added(made, tmp_path):
    root, shards = made
    code, again = as_json("build-shards", root, "--out", shards, "--split", "val=0.2")
    assert (code, again["added"], again["already"], again["snapshot"]) == (0, 0, 24, 1)


def test_verify_exits_one_with_findings_and_repairs(made):
    _, shards = made
    (shards / "index.map").write_bytes(b"nonsense")
    result = run("verify", shards)
    assert result.exit_code == 1
    assert "bad_map index.map" in result.stdout
    assert run("verify", shards, "--repair").exit_code == 0
    assert run("verify", shards).exit_code == 0


def test_damage_is_quarantined_by_repair(made):
    _, shards = made
    tar = sorted(shards.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:5000])
    code, verdict = as_json("verify", shards, "--repair")
    assert (code, verdict["left"]) == (0, [])
    assert {finding["code"] for finding in verdict["findings"]} >= {"torn_tar"}
    assert (shards / "quarantine" / tar.name).is_file()


def test_building_again_after_repair_brings_the_lost_samples_back(made):
    root, shards = made
    tar = sorted(shards.glob("edit-*-train-*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:5000])
    repaired = run("verify", shards, "--repair")
    assert "come back with the `tagmoe build-shards` command" in repaired.stdout
    code, again = as_json("build-shards", root, "--out", shards, "--split", "val=0.2")
    assert (code, again["samples"]) == (0, 24)
    assert again["added"] == 24 - again["already"] > 0
    assert not tar.exists()  # its name is not given to other bytes
    assert as_json("verify", shards)[1]["ok"]
    assert as_json("build-shards", root, "--out", shards, "--split", "val=0.2")[1]["added"] == 0


def test_card_rejects_and_strangers_are_checked(made):
    _, shards = made
    card, rejects = shards / "README.md", shards / "rejects" / "000001.parquet"
    whole = card.read_bytes(), rejects.read_bytes()
    for path, data in zip((card, rejects), whole, strict=True):
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    (shards / "notes.txt").write_text("x")
    (shards / "more").mkdir()
    found = {(f["code"], f["where"]) for f in as_json("verify", shards)[1]["findings"]}
    assert found == {
        ("changed_file", "README.md"),
        ("changed_file", "rejects/000001.parquet"),
        ("extra_file", "notes.txt"),
        ("extra_file", "more"),
    }
    rejects.write_bytes(whole[1])
    assert run("verify", shards, "--repair").exit_code == 0
    assert card.read_bytes() == whole[0]


def test_what_is_no_shard_set_is_a_usage_error(made, tmp_path):
    root, _ = made
    for place in (tmp_path / "nope", root):
        error = run("verify", place).exception
        assert isinstance(error, DataError)
        assert "no finished shard set" in str(error)
    assert isinstance(run("build-shards", root, "--out", root).exception, ConfigError)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--split", "val"), "NAME=SHARE"),
        (("--split", "val=2"), "share between 0 and 1"),
        (("--split", "train=0.1"), "other than train"),
        (("--partition", "3/2"), "0 <= i < n"),
        (("--format", "gif"), "format"),
        (("--filter", "nonsense"), "--filter"),
        (("--set", "colour=1"), "colour is not a setting"),
    ],
)
def test_bad_options_are_named_before_any_work(tmp_path, option, named):
    made = make_run(tmp_path, mixed(3))
    result = run("build-shards", made.root, "--out", tmp_path / "shards", *option)
    assert isinstance(result.exception, ConfigError)
    assert named in str(result.exception)
    assert not list((tmp_path / "shards").glob("*.tar"))


def test_retag_writes_an_overlay_and_no_tar(made, tmp_path):
    root, shards = made
    before = files_of(shards)
    records = mixed(24)[:20]
    for rec in records[::3]:
        rec.tags = ["global editing", "style transfer", "structure preservation"]
    other = make_run(tmp_path / "other", records)
    code, result = as_json("retag", shards, other.root, "--name", "v2")
    assert (code, result) == (0, {"name": "v2", "samples": 24, "matched": 20, "changed": 7})
    after = files_of(shards)
    assert {name: digest for name, digest in after.items() if not name.startswith("tags/")} == before
    base = ShardStream(shards, config=StreamConfig(batch_size=3))
    over = ShardStream(shards, config=StreamConfig(batch_size=3, overlay="v2"))
    old = {s.id: s for b in base.batches(stop=base.batches_per_epoch) for s in b.samples}
    new = {s.id: s for b in over.batches(stop=over.batches_per_epoch) for s in b.samples}
    assert old.keys() == new.keys()
    changed = {name for name in old if old[name].tag_ids != new[name].tag_ids}
    assert changed == {rec.id for rec in records[::3]} & old.keys()
    assert all(new[name].tag_ids == (1, 8, 12) for name in changed)
    assert all(old[name].images == new[name].images for name in old)
    with pytest.raises(ConfigError, match="overlay changed"):
        over.resume(base.state(3))
    only = ShardStream(shards, config=StreamConfig(overlay="v2", require_tags=("style transfer",)))
    assert only.samples_per_epoch == len(changed)
    assert as_json("retag", shards, other.root, "--name", "v2")[0] == 0
    assert isinstance(run("retag", shards, root, "--name", "v2").exception, ConfigError)
    assert isinstance(run("retag", shards, root, "--name", "../x").exception, ConfigError)
    assert as_json("inspect", shards)[1]["overlays"] == ["v2"]


def test_retag_needs_the_same_records(made, tmp_path):
    _, shards = made
    other = make_run(tmp_path / "other", mixed(3, prefix="z"))
    assert isinstance(run("retag", shards, other.root, "--name", "v3").exception, DataError)


def test_an_overlay_of_other_bytes_is_refused_and_found(made, tmp_path):
    root, shards = made
    run("retag", shards, root, "--name", "v2")
    one, two = sorted((shards / "tags" / "v2").glob("*.parquet"))[:2]
    two.write_bytes(one.read_bytes())
    assert {f["code"] for f in as_json("verify", shards)[1]["findings"]} == {"bad_overlay"}
    with pytest.raises(DataError, match="changed since it was written"):
        ShardStream(shards, config=StreamConfig(overlay="v2"))
    with pytest.raises(DataError, match="no overlay 'v9'"):
        ShardStream(shards, config=StreamConfig(overlay="v9"))


def test_text_only_run_is_one_clear_line(tmp_path):
    made = make_run(tmp_path, [Rec(f"t{i}", "edit") for i in range(3)])
    error = run("build-shards", made.root, "--out", tmp_path / "shards").exception
    assert isinstance(error, DataError)
    assert "\n" not in str(error)
    assert "shards need pictures" in str(error)


def test_require_audit_honours_the_gate(tmp_path):
    from tagmoe.annotate.audit.commands import register as register_audit

    audit = typer.Typer()
    register_audit(audit)
    made = make_run(tmp_path, mixed(9))
    result = CliRunner().invoke(audit, ["audit", str(made.root), "--out", str(tmp_path / "report")])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert result.exit_code in (0, 1)
    for passed in (True, False):
        report["gate"]["passed"] = passed
        report["gate"]["failures"] = [] if passed else ["coverage 0.5 is below 0.9"]
        (tmp_path / "report" / "report.json").write_text(json.dumps(report))
        out = tmp_path / f"shards-{passed}"
        built = run("build-shards", made.root, "--out", out, "--require-audit", tmp_path / "report")
        assert (built.exit_code == 0) == passed
        assert (out / "manifest.json").exists() == passed
        if not passed:
            assert isinstance(built.exception, FailedGate)
            assert "coverage 0.5 is below 0.9" in str(built.exception)
    other = make_run(tmp_path / "other", mixed(6))
    refused = run("build-shards", other.root, "--out", tmp_path / "x", "--require-audit", tmp_path / "report")
    assert "audit it again" in str(refused.exception)
    none = run("build-shards", made.root, "--out", tmp_path / "x", "--require-audit", tmp_path / "none")
    assert isinstance(none.exception, DataError)


def test_every_command_shows_an_example():
    for name in ("build-shards", "verify", "inspect", "retag"):
        assert "Example: tagmoe " + name in run(name, "--help").stdout


def test_shards_are_a_corpus_again(tmp_path):
    """Finished shards can be annotated again: the corpus reader opens them by their manifest."""
    from tagmoe.schema import CorpusSpec, Pair
    from tagmoe.shards.corpus import open_corpus

    records = mixed(9)
    build(make_run(tmp_path, records), tmp_path / "shards")
    corpus = open_corpus(CorpusSpec(uri=str(tmp_path / "shards")))
    pairs = [item for item in corpus.records() if isinstance(item, Pair)]
    assert {pair.id for pair in pairs} == {rec.id for rec in records}
    by_id = {rec.id: rec for rec in records}
    for pair in pairs:
        assert {image.role: corpus.read_image(image) for image in pair.images} == by_id[pair.id].pictures
