"""The command line as a user meets it: help with examples, one-line errors, exit codes, reference kept true."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from make_cli_reference import OUT, commands, render  # noqa: E402

PROMISED = [
    "annotate",
    "audit",
    "gold",
    "merge",
    "fit-local",
    "build-shards",
    "verify",
    "inspect",
    "retag",
    "precompute",
    "train",
    "routing",
    "plan",
    "export",
    "import",
    "verify-checkpoint",
    "taxonomy",
    "demo",
]


def tagmoe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tagmoe.cli", *arguments], capture_output=True, text=True, check=False)


def test_every_promised_command_exists():
    assert {path[0] for path in commands()} >= set(PROMISED)


def test_the_reference_is_what_the_commands_say_and_each_has_an_example():
    reference = render()
    assert OUT.read_text("utf-8") == reference, "run `make docs`"
    for section in reference.split("\n## ")[2:]:
        assert "Example: tagmoe " in section, section.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["annotate", "no/such/corpus", "--out", "{tmp}/run"], "no/such/corpus"),
        (["annotate", "{corpus}", "--out", "{tmp}/run", "--partition", "8/8"], "0 <= i < n"),
        (["annotate", "{corpus}", "--out", "{tmp}/run", "--columns", "source"], "FIELD=COLUMN"),
        (["annotate", "{corpus}", "--out", "{tmp}/run", "--set", "nothing.here=1"], "nothing"),
        (["annotate", "{corpus}", "--out", "{tmp}/run", "--retry-rejects", "bad mood"], "not a reject reason"),
        (["annotate", "{corpus}", "--out", "{tmp}/run", "--annotator", "server", "--escalate", "server"], "annotator"),
        (["audit", "{tmp}", "--out", "{tmp}/report"], "tagmoe annotate"),
        (["build-shards", "{tmp}", "--out", "{tmp}/shards"], "tagmoe annotate"),
        (["merge", "{tmp}"], "nothing to merge"),
        (["taxonomy", "show", "--taxonomy", "nope@1"], "tagmoe-18@1"),
        (["taxonomy", "validate", "no such tag"], "unknown tag"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, says, tmp_path):
    corpus = ROOT / "examples" / "demo-corpus"
    done = tagmoe(*(argument.format(tmp=tmp_path, corpus=corpus) for argument in arguments))
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = tagmoe("--debug", "merge", str(tmp_path))
    assert "Traceback" in done.stderr


def test_taxonomy_commands():
    assert "17  scope" in tagmoe("taxonomy", "show").stdout
    assert len(json.loads(tagmoe("taxonomy", "show", "--json").stdout)["tags"]) == 18
    schema = json.loads(tagmoe("taxonomy", "json-schema", "--task", "generation").stdout)
    assert schema["properties"]["scope"]["enum"] == ["image generation"]
    good = tagmoe("taxonomy", "validate", "0", "attribute editing", "14")
    assert (good.returncode, good.stdout) == (0, "valid: local editing, attribute editing, identity preservation\n")
    bad = tagmoe("taxonomy", "validate", "local editing", "object editing", "face preservation")
    assert bad.returncode == 1
    assert "face_implies_identity" in bad.stdout


def test_dry_run_asks_nothing_and_shows_what_would_be_asked(tmp_path):
    corpus = str(ROOT / "examples" / "demo-corpus")
    done = tagmoe(
        "annotate", corpus, "--out", str(tmp_path / "run"), "--dry-run", "--json", "--annotator", "server",
        "--endpoint", "http://127.0.0.1:9/v1", "--model", "m",
    )  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["rows"] == 92
    assert "object editing" in shown["request"]["text"]
    assert shown["request"]["schema"]["properties"]["scope"]
    assert shown["request"]["tokens_of_the_run"] > 92 * 100
    assert not (tmp_path / "run").exists()


def test_stage_time_and_memory_are_printed_apart_from_the_result(tmp_path):
    corpus = str(ROOT / "examples" / "demo-corpus")
    done = tagmoe("annotate", corpus, "--out", str(tmp_path / "run"), "--limit", "3", "--json")
    assert json.loads(done.stdout)["annotated"] == 3
    assert re.search(r"annotate: \d+\.\d s, peak memory \d+ MiB", done.stderr)


def test_a_run_and_a_shard_set_never_share_a_folder(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    done = tagmoe("annotate", str(ROOT / "examples" / "demo-corpus"), "--out", str(tmp_path))
    assert (done.returncode, "is a shard set" in done.stderr) == (2, True)
