"""The whole audit through the command line, on good, moved, changed and hostile input."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support_audit import annotate_corpus, make_record, picture, picture_corpus, write_run
from tagmoe.annotate.audit.commands import register
from tagmoe.annotate.audit.lists import safe_cell
from tagmoe.annotate.audit.page import safe_json
from tagmoe.schema import ConfigError, DataError, Reject
from tagmoe.schema.report import load_report
from typer.testing import CliRunner

FAST = ("--set", "second_readings=0", "--set", "bootstrap=100")
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '=HYPERLINK("http://x","y")',
    "\u202egnp.exe \u2066 \u200b\ufeff",
    "\x00\x1b[31m\x07 bell",
    "&lt;b&gt; <!-- --> ]]> \u2028\u2029",
    "x" * (1 << 20),
    "@@DATA@@ @@SCRIPT@@",
]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    program = typer.Typer(pretty_exceptions_enable=False)
    register(program)
    return program


def run_cli(app: typer.Typer, *arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def audited(app: typer.Typer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    corpus = picture_corpus(folder / "corpus", 6)
    annotate_corpus(corpus, folder / "run", probs={"local editing": 0.55})
    output = run_cli(app, "audit", folder / "run", "--out", folder / "report", *FAST)
    assert "6 of 6 records annotated" in output
    assert "gate (default): passed" in output
    assert "to review for +-5% per tag: 6 records, listed in lists/sampling_plan.csv" in output
    assert (
        "of each tag: local editing 6, attribute editing 6, background preservation 6, identity preservation 6"
        in output
    )
    return folder


def embedded(page: Path) -> tuple[dict, dict[str, dict]]:
    blocks = dict(
        re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    )
    data = json.loads(blocks.pop("data"))
    return data, {name: json.loads(text) for name, text in blocks.items()}


def test_report_page_and_lists_belong_together(audited: Path):
    report = load_report(audited / "report")
    data, pictures = embedded(audited / "report/report.html")
    assert data["report"] == report.model_dump(mode="json")
    assert {card["row"] for card in data["cards"]} == set(range(6))
    assert set(pictures) == {f"p{row}" for row in range(6)}
    for shown in pictures.values():
        assert set(shown) == {"source", "target", "mask"}
        assert all(value.startswith("data:image/jpeg;base64,") for value in shown.values())
    assert sorted(report.lists) == sorted(
        str(p.relative_to(audited / "report")) for p in (audited / "report/lists").iterdir()
    )
    with (audited / "report/lists/sampling_plan.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == report.sampling.distinct == 6


def test_the_page_allows_nothing_from_elsewhere(audited: Path):
    text = (audited / "report/report.html").read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    outside = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#|data:)", outside)
    assert "innerHTML" not in outside.replace("there is no innerHTML", "")
    assert "http://www.w3.org/2000/svg" in outside
    assert len(re.findall(r"https?://", outside)) == 1


def test_an_audit_is_repeatable(app: typer.Typer, audited: Path, tmp_path: Path):
    run_cli(app, "audit", audited / "run", "--out", tmp_path / "again", *FAST)
    for name in ("report.json", "report.html", "lists/sampling_plan.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (audited / "report" / name).read_bytes()


def test_json_for_machines(app: typer.Typer, audited: Path, tmp_path: Path):
    summary = json.loads(run_cli(app, "audit", audited / "run", "--out", tmp_path / "r", "--json", *FAST))
    assert summary["annotated"] == 6
    assert summary["gate"] == {"passed": True, "failures": []}
    assert Path(summary["page"]).is_file()
    assert summary["run_hash"] == load_report(tmp_path / "r").run_hash


def test_a_failed_gate_exits_1_and_says_why(app: typer.Typer, audited: Path, tmp_path: Path):
    (tmp_path / "gate.toml").write_text('[tags."style transfer"]\nmin_share = 0.1\n', "utf-8")
    output = run_cli(
        app, "audit", audited / "run", "--out", tmp_path / "r", "--gate", tmp_path / "gate.toml", *FAST, code=1
    )
    assert "gate (gate.toml): FAILED" in output
    assert "style transfer: share is 0 (6 records), wanted at least 0.1" in output
    assert load_report(tmp_path / "r").gate.failures != []


def test_a_moved_corpus_is_found_and_a_lost_one_is_said(app: typer.Typer, tmp_path: Path):
    corpus = picture_corpus(tmp_path / "corpus", 2)
    annotate_corpus(corpus, tmp_path / "run")
    corpus.rename(tmp_path / "elsewhere")
    output = run_cli(app, "audit", tmp_path / "run", "--out", tmp_path / "lost", *FAST)
    assert "give its place with --corpus" in output
    assert embedded(tmp_path / "lost/report.html")[1] == {}
    run_cli(app, "audit", tmp_path / "run", "--out", tmp_path / "found", "--corpus", tmp_path / "elsewhere", *FAST)
    assert len(embedded(tmp_path / "found/report.html")[1]) == 2


def test_a_picture_that_changed_is_named_not_shown(app: typer.Typer, tmp_path: Path):
    corpus = picture_corpus(tmp_path / "corpus", 3)
    annotate_corpus(corpus, tmp_path / "run")
    Image.new("RGB", (40, 40), "white").save(corpus / "images/0_target.png")
    (corpus / "images/1_target.png").unlink()
    (corpus / "images/2_target.png").write_bytes(b"GIF89a nonsense")
    output = run_cli(app, "audit", tmp_path / "run", "--out", tmp_path / "r", *FAST)
    assert "2 of the 6 pictures checked: image_changed (row 0 target, row 2 target); each is named in" in output
    assert "6 of 6 pictures checked: 2 changed, 1 unreadable" in output
    assert any("missing_image (row 1 target)" in note for note in load_report(tmp_path / "r").notes)
    data, pictures = embedded(tmp_path / "r/report.html")
    assert data["report"]["notes"] == load_report(tmp_path / "r").notes
    assert pictures["p0"]["target"].startswith("image_changed")
    assert pictures["p1"]["target"].startswith("missing_image")
    assert pictures["p2"]["target"].startswith("image_changed")
    assert all("mask" not in shown for shown in pictures.values())


def test_pictures_of_odd_modes_are_shown(app: typer.Typer, tmp_path: Path):
    """CMYK, 16 bits, palette with transparency, turned by EXIF, a sliver: each becomes a small upright JPEG."""
    corpus = picture_corpus(tmp_path / "corpus", 5)
    images = corpus / "images"
    picture(0).convert("CMYK").save(images / "0_source.png", "JPEG")
    Image.fromarray(np.full((60, 80), 40_000, np.uint16)).save(images / "1_source.png")
    picture(2).convert("P").save(images / "2_source.png", transparency=3)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(3).save(images / "3_source.png", "JPEG", exif=turned)
    picture(4, (2000, 9)).save(images / "4_source.png")
    annotate_corpus(corpus, tmp_path / "run")
    run_cli(app, "audit", tmp_path / "run", "--out", tmp_path / "r", *FAST)
    pictures = embedded(tmp_path / "r/report.html")[1]
    assert len(pictures) == 5
    for shown in pictures.values():
        for uri in shown.values():
            decoded = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
            assert (decoded.format, decoded.mode) == ("JPEG", "RGB")
            assert max(decoded.size) <= 288
    upright = Image.open(io.BytesIO(base64.b64decode(pictures["p3"]["source"].split(",")[1])))
    assert upright.size == (72, 96)


def test_hostile_records_break_nothing(app: typer.Typer, tmp_path: Path):
    records = [
        make_record(i, id=(text[:60] or "-"), instruction=text, extra={"split": text[:70], "label": text})
        for i, text in enumerate(HOSTILE)
    ]
    reject = Reject(row=99, id=HOSTILE[0], stage="decode", reason="not_an_image", detail=HOSTILE[1] * 400)
    run = write_run(tmp_path / "run", records, [reject])
    output = run_cli(app, "audit", run, "--out", tmp_path / "r", *FAST)
    assert "\x1b" not in output
    page = (tmp_path / "r/report.html").read_text("utf-8")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "onerror=alert" not in page.replace("\\u003cimg src=x onerror=alert", "")
    data, _ = embedded(tmp_path / "r/report.html")
    texts = {card["row"]: card["text"] for card in data["cards"]}
    for row, text in enumerate(HOSTILE):
        assert texts[row] == text[:4000]
    assert len(page) < 400_000, "a text of 1 MB is cut"
    for path in (tmp_path / "r/lists").iterdir():
        with path.open(newline="", encoding="utf-8") as stream:
            for line in csv.reader(stream):
                assert not any(cell.startswith(("=", "@", "\t")) for cell in line)
                assert not any("\x00" in cell or "\u202e" in cell for cell in line)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\u200b=1", "%0A=1", "|cmd"]
)
def test_cells_are_text_for_every_spreadsheet(text: str):
    assert safe_cell(text).startswith("'")


@given(st.text())
def test_any_text_is_safe_in_a_cell_and_in_a_data_block(text: str):
    cell = safe_cell(text)
    assert not re.match(r"\s*[=+\-@|%]", cell)
    assert "\n" not in cell
    block = safe_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {text: [text]}


def test_plain_cells_stay_as_they_are():
    assert safe_cell("make it red, please") == "make it red, please"
    assert len(safe_cell("y" * 10_000)) == 501


def test_json_in_a_data_block_cannot_end_it():
    text = safe_json({"</script>": "<!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script>": "<!--\u2028&"}
    assert json.loads(safe_json("\ud800")) == "?", "what UTF-8 cannot hold is replaced"


def test_text_only_and_empty_runs_are_audited(app: typer.Typer, tmp_path: Path):
    texts = write_run(tmp_path / "text", [make_record(i, images=(), evidence=None) for i in range(30)])
    assert "30 of 30" in run_cli(app, "audit", texts, "--out", tmp_path / "a", *FAST)
    assert load_report(tmp_path / "a").coverage.without_pictures == 30
    nothing = write_run(
        tmp_path / "nothing", [], [Reject(row=0, id="a", stage="read", reason="bad_record", detail="x")]
    )
    assert "0 of 1 records annotated" in run_cli(app, "audit", nothing, "--out", tmp_path / "b", *FAST)
    assert embedded(tmp_path / "b/report.html")[0]["cards"] == []


def test_what_cannot_be_audited_is_said_in_one_line(app: typer.Typer, tmp_path: Path):
    with pytest.raises(DataError, match="is no run"):
        run_cli(app, "audit", tmp_path, "--out", tmp_path / "r")
    run = write_run(tmp_path / "run", [make_record(0)])
    with pytest.raises(ConfigError, match="bootstrap = 3"):
        run_cli(app, "audit", run, "--out", tmp_path / "r", "--set", "bootstrap=3")
    with pytest.raises(ConfigError, match="--check-pictures 'some': expected `all`, `shown`, or how many"):
        run_cli(app, "audit", run, "--out", tmp_path / "r", "--check-pictures", "some")
    with pytest.raises(DataError, match="cannot be read"):
        run_cli(app, "audit", run, "--out", tmp_path / "r", "--gold", tmp_path / "no.jsonl")
    (tmp_path / "else.jsonl").write_text('{"id": "nobody", "tags": []}', "utf-8")
    with pytest.raises(DataError, match="none of the 1 records"):
        run_cli(app, "audit", run, "--out", tmp_path / "r", "--gold", tmp_path / "else.jsonl")
    assert not (tmp_path / "r").exists(), "nothing is written before the input is known to be good"


OWN_TAGS = """
name = "mood"
version = 3
[[tags]]
id = 1
name = "calm"
tier = "scope"
definition = "Nothing moves."
[[tags]]
id = 4
name = "wild"
tier = "scope"
definition = "Everything moves."
[[tags]]
id = 9
name = "bright & <loud>"
tier = "type"
definition = "Much light."
[[rules]]
name = "one_scope"
kind = "exactly_one"
tier = "scope"
text = "Choose one."
"""


def test_a_taxonomy_of_ones_own_is_audited_too(app: typer.Typer, tmp_path: Path):
    """Gaps in the ids, no tag that the built-in queues know, and an embedded annotator that cannot help."""
    (tmp_path / "mood.toml").write_text(OWN_TAGS, "utf-8")
    ids = [(1,), (4,), (1, 9), (1, 4)]
    tags = {
        "tag_probs": (None, 0.9, None, None, 0.1, None, None, None, None, 0.2),
        "taxonomy": "mood@3",
        "warnings": (),
    }
    records = [make_record(i).model_copy(update={**tags, "tag_ids": ids[i % 4]}) for i in range(24)]
    run = write_run(tmp_path / "run", records, taxonomy=str(tmp_path / "mood.toml"))
    (tmp_path / "gold.jsonl").write_text(json.dumps({"id": "r1", "tags": ["wild"]}) + "\n", "utf-8")
    output = run_cli(
        app, "audit", run, "--out", tmp_path / "r", "--gold", tmp_path / "gold.jsonl", "--set", "bootstrap=100", code=1
    )
    assert "broken rules is 6 (24 records), wanted at most 0" in output
    report = load_report(tmp_path / "r")
    assert [(tag.id, tag.count) for tag in report.tags] == [(1, 18), (4, 12), (9, 6)]
    assert report.pairs == [[18, 6, 6], [6, 12, 0], [6, 0, 6]]
    assert report.gold is not None
    assert report.gold.scope_accuracy.value == 1


def test_page_and_queues_are_capped(app: typer.Typer, tmp_path: Path):
    run = write_run(tmp_path / "run", [make_record(i) for i in range(80)])
    caps = ("cards_per_queue=3", "sample_cards=10", "max_cards=16", "queue_length=7")
    run_cli(app, "audit", run, "--out", tmp_path / "r", *FAST, *(part for cap in caps for part in ("--set", cap)))
    report = load_report(tmp_path / "r")
    cards = embedded(tmp_path / "r/report.html")[0]["cards"]
    assert len(cards) <= 16
    assert sum(card["random"] for card in cards) == 10
    assert max(len(queue.entries) for queue in report.queues) == 7
    assert {queue.scored for queue in report.queues if queue.name == "noop"} == {80}
