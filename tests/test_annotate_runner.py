"""A run on real pictures and a real HTTP endpoint: exactly once, byte for byte, whatever interrupts it."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_annotate import write_corpus
from support_vlm import GOOD_REPLY, MODEL, Act, is_control, serving, text_of
from tagmoe.annotate.factory import make_annotator
from tagmoe.annotate.ledger import RECORDS, REPLIES, Ledger, content_key
from tagmoe.annotate.prepare import prepare
from tagmoe.annotate.runner import annotate
from tagmoe.schema import ConfigError, CorpusSpec, DataError, Pair, Run
from tagmoe.schema.config import load_config
from tagmoe.schema.configs.annotate import AnnotateConfig
from tagmoe.shards.corpus import open_corpus

ROWS = 60
KILLS = 30


def command(corpus: Path, out: Path, *extra: str) -> list[str]:
    return [sys.executable, "-m", "tagmoe.cli", "annotate", str(corpus), "--out", str(out), "--workers", "1", *extra]


def server_options(url: str) -> list[str]:
    return ["--annotator", "server", "--endpoint", url, "--model", MODEL, "--set", "vlm.server.concurrency=4"]


def config(corpus: Path, url: str | None = None, **options: object) -> AnnotateConfig:
    if url is not None:
        options |= {"annotator": "server", "vlm": {"model": MODEL, "server": {"endpoints": [url], "concurrency": 4}}}
    return load_config(AnnotateConfig, options={"corpus": {"uri": str(corpus)}, "workers": 1, **options})


def parts(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.parquet"))}


def row_of(body: dict) -> int:
    found = re.search(r"number (\d+)", text_of(body))
    assert found
    return int(found[1])


def answers(body: dict, _number: int) -> Act:
    if is_control(body):
        return Act(content=GOOD_REPLY)
    row = row_of(body)
    if row % 10 == 3:
        return Act(content="{}")
    return Act(content=GOOD_REPLY, hang_seconds=0.02)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "boxes", ROWS, bad=(7, 41))


def test_thirty_kills_give_the_bytes_of_an_uninterrupted_run_and_ask_nothing_twice(corpus, tmp_path):
    with serving(answers) as [server]:
        whole = annotate(config(corpus, server.url), out=tmp_path / "whole", quiet=True)
        assert (whole.accepted, whole.rejected) == (52, 8)
        assert whole.rejects_by_reason == {"invalid_reply": 6, "not_an_image": 2}
        row_by_key = keys_of(config(corpus, server.url), corpus)
        rng = random.Random(7)
        run = tmp_path / "killed"
        ledger_path = run / "ledger" / "part-00000.log"
        kills, durable = 0, set[int]()
        asked_before = len(server.records)
        while kills < KILLS:
            process = subprocess.Popen(command(corpus, run, *server_options(server.url)), stderr=subprocess.PIPE)
            # From before the first request to the middle of the run; a little more with every kill, so that it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.6, 1.9) + 0.02 * kills)
            finished = process.poll() is not None
            process.kill()
            _, errors = process.communicate()
            rows = {row_of(body) for body in server.records[asked_before:] if not is_control(body)}
            assert rows & durable == set(), "a durably logged reply was asked for again"
            asked_before = len(server.records)
            if finished:
                assert process.returncode == 0, errors
                for path in [*run.rglob("*.parquet"), run / "run.json"]:
                    path.unlink()
                durable = set()
            elif ledger_path.exists():
                with contextlib.closing(Ledger(ledger_path, REPLIES)) as ledger:
                    durable = {row for key, row in row_by_key.items() if ledger.get(key) is not None}
            kills += 1
        done = subprocess.run(
            command(corpus, run, *server_options(server.url), "--json"), capture_output=True, check=True
        )
    assert json.loads(done.stdout)["run_hash"] == whole.run_hash
    assert parts(run) == parts(tmp_path / "whole")
    assert not ledger_path.exists()


def keys_of(settings: AnnotateConfig, corpus_path: Path) -> dict[str, int]:
    corpus = open_corpus(CorpusSpec(uri=str(corpus_path)))
    annotator = make_annotator(settings)
    keys = {}
    for item in corpus.records(0, ROWS):
        if isinstance(item, Pair):
            hashes = (
                {image.role: image.sha256 for image in prepared.images} if (prepared := usable(item, corpus)) else {}
            )
            keys[content_key(item, hashes, annotator.provenance)] = item.row
    annotator.close()
    return keys


def usable(pair, corpus):
    prepared = prepare(pair, corpus, max_pixels=None)
    return prepared if hasattr(prepared, "images") else None


def test_worker_count_does_not_change_a_byte_and_every_row_occurs_once(corpus, tmp_path):
    one = annotate(config(corpus), out=tmp_path / "one", quiet=True)
    two = annotate(config(corpus, workers=2, chunk=5), out=tmp_path / "two", quiet=True)
    assert one.run_hash == two.run_hash
    assert parts(tmp_path / "one") == parts(tmp_path / "two")
    run = Run.open(tmp_path / "one")
    rows = Counter([record.row for record in run.annotations()] + [reject.row for reject in run.rejects()])
    assert rows == Counter(range(ROWS))
    record = next(run.annotations())
    assert (record.id, record.extra["licence"], record.images[0].role) == ("pair-00000", "CC0", "source")
    assert record.evidence is not None
    assert len(record.tag_probs) == 18


def test_a_finished_run_is_left_alone_and_a_changed_part_is_refused(corpus, tmp_path):
    out = tmp_path / "run"
    first = annotate(config(corpus), out=out, quiet=True)
    [path] = (out / "annotations").glob("*.parquet")
    stamp = path.stat().st_mtime_ns
    assert annotate(config(corpus), out=out, quiet=True).run_hash == first.run_hash
    assert path.stat().st_mtime_ns == stamp
    table = pq.read_table(path)
    hacked = table.set_column(5, table.schema.field(5), pa.array(["HACKED", *table["instruction"].to_pylist()[1:]]))
    pq.write_table(hacked, path)
    for reader in (lambda: Run.open(out), lambda: annotate(config(corpus), out=out, quiet=True)):
        with pytest.raises(DataError, match=r"part 0 of .* is not what run\.json recorded"):
            reader()
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        Run.open(out)
    assert annotate(config(corpus), out=out, quiet=True).run_hash == first.run_hash


def test_a_larger_limit_goes_on_and_a_smaller_one_is_refused(corpus, tmp_path):
    out = tmp_path / "run"
    with serving(lambda _body, _number: Act(content=GOOD_REPLY)) as [server]:
        annotate(config(corpus, server.url, limit=6), out=out, quiet=True)
        before = len(server.records)
        whole = annotate(config(corpus, server.url), out=out, quiet=True)
        asked = [row_of(body) for body in server.records[before:] if not is_control(body)]
        assert sorted(asked) == [row for row in range(6, ROWS) if row not in (7, 41)]
        with pytest.raises(ConfigError, match="already covers 60 rows"):
            annotate(config(corpus, server.url, limit=4), out=out, quiet=True)
        fresh = annotate(config(corpus, server.url), out=tmp_path / "fresh", quiet=True)
    assert whole.run_hash == fresh.run_hash


def test_a_killed_local_run_keeps_its_records(corpus, tmp_path):
    big = write_corpus(tmp_path / "big", 400, size=64)
    out = tmp_path / "run"
    ledger = out / "ledger" / "part-00000.rows.log"
    process = subprocess.Popen(command(big, out), stderr=subprocess.PIPE)
    while not (ledger.exists() and ledger.stat().st_size > 100_000):
        if process.poll() is not None:  # it was done before anybody looked: once more
            assert process.returncode == 0, process.communicate()
            shutil.rmtree(out)
            process = subprocess.Popen(command(big, out), stderr=subprocess.PIPE)
        time.sleep(0.02)
    process.kill()
    process.communicate()
    fresh = annotate(config(big), out=tmp_path / "fresh", quiet=True)
    with contextlib.closing(Ledger(ledger, RECORDS)) as log:
        kept = {int(row) for row in log}
    assert len(kept) >= 30
    remove_pictures(big, kept)
    assert annotate(config(big), out=out, quiet=True).run_hash == fresh.run_hash


def remove_pictures(corpus: Path, rows: set[int]) -> None:
    """Of these rows: whoever reads them again rejects them."""
    for item in open_corpus(CorpusSpec(uri=str(corpus))).records(0, max(rows) + 1):
        if isinstance(item, Pair) and item.row in rows:
            for image in item.images:
                (corpus / str(image.uri)).unlink()


def test_a_killed_server_run_reads_no_finished_pair_again_and_counts_all_tokens(corpus, tmp_path):
    big, out = write_corpus(tmp_path / "big", 120), tmp_path / "run"
    log = out / "ledger" / "part-00000.rows.log"

    def slower(body: dict, number: int) -> Act:
        late = not is_control(body) and row_of(body) >= 60
        return replace(answers(body, number), hang_seconds=2 if late else 0)

    with serving(answers) as [server]:
        whole = annotate(config(big, server.url), out=tmp_path / "whole", quiet=True)
    with serving(slower) as [server]:
        process = subprocess.Popen(command(big, out, *server_options(server.url)), stderr=subprocess.PIPE)
        while not (log.exists() and log.stat().st_size > 20_000):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()
        with contextlib.closing(Ledger(log, RECORDS)) as records:
            kept = {int(row) for row in records}
        assert 5 <= len(kept) < 120
        remove_pictures(big, kept)
    with serving(answers) as [server]:
        done = annotate(config(big, server.url), out=out, quiet=True)
    assert done.run_hash == whole.run_hash
    assert [part.tokens for part in done.parts] == [part.tokens for part in whole.parts]


def test_ctrl_c_at_any_time_is_one_line(corpus, tmp_path):
    """The signal goes to the whole process group, as from a terminal, also while workers are still importing."""
    big = write_corpus(tmp_path / "big", 200)
    for delay in (0.0, 0.3, 0.9):
        out = tmp_path / f"run-{delay}"
        process = subprocess.Popen(command(big, out), stderr=subprocess.PIPE, text=True, start_new_session=True)
        while not (out / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors


def test_an_impossible_place_is_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("x")
    done = subprocess.run(command(corpus, tmp_path / "file"), capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "Choose another place" in done.stderr


def test_another_annotator_or_corpus_is_refused_by_name(corpus, tmp_path):
    out = tmp_path / "run"
    annotate(config(corpus, limit=4), out=out, quiet=True)
    with serving(answers) as [server], pytest.raises(ConfigError, match="another annotator"):
        annotate(config(corpus, server.url), out=out, quiet=True)
    other = write_corpus(tmp_path / "boxes", 5)
    with pytest.raises(ConfigError, match="another corpus"):
        annotate(config(other, limit=4), out=out, quiet=True)
    # A larger limit is the same run, continued.
    assert annotate(config(corpus, limit=9), out=out, quiet=True).rows == 9


def test_retry_rejects_asks_only_for_those_records(corpus, tmp_path):
    out = tmp_path / "run"
    with serving(answers) as [server]:
        annotate(config(corpus, server.url), out=out, quiet=True)
    with serving(lambda _body, _number: Act(content=GOOD_REPLY)) as [server]:
        again = config(corpus, server.url)
        # The endpoint's address is no part of what determines a reply.
        info = annotate(again, out=out, retry=["invalid_reply"], quiet=True)
        asked = {row_of(body) for body in server.records if not is_control(body)}
    assert asked == {3, 13, 23, 33, 43, 53}
    assert (info.accepted, info.rejects_by_reason) == (58, {"not_an_image": 2})


def test_ctrl_c_says_how_to_go_on_and_keeps_what_was_answered(corpus, tmp_path):
    seen = threading.Event()

    def script(body: dict, number: int) -> Act:
        if number > 20:
            seen.set()
        return Act(content=GOOD_REPLY, hang_seconds=0.02 if number < 20 else 0.4)

    out = tmp_path / "run"
    with serving(script) as [server]:
        process = subprocess.Popen(command(corpus, out, *server_options(server.url)), stderr=subprocess.PIPE, text=True)
        assert seen.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "the same command goes on" in errors
        with contextlib.closing(Ledger(out / "ledger" / "part-00000.log", REPLIES)) as ledger:
            kept = len(ledger)
        assert kept >= 16
        before = len(server.records)
        info = annotate(config(corpus, server.url), out=out, quiet=True)
        assert len(server.records) - before <= ROWS - kept + 2
    assert info.complete


def test_a_full_disk_stops_with_the_way_out_and_the_run_goes_on(corpus, tmp_path):
    out = tmp_path / "run"

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        command(corpus, out, "--set", "patience_seconds=0"),
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "run the same command again" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert annotate(config(corpus), out=out, quiet=True).complete


def test_a_second_process_on_the_same_run_refuses(corpus, tmp_path):
    def slow(_body: dict, _number: int) -> Act:
        return Act(content=GOOD_REPLY, hang_seconds=2)

    out = tmp_path / "run"
    with serving(slow) as [server]:
        arguments = command(corpus, out, *server_options(server.url))
        first = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        while not (out / "run.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(arguments, capture_output=True, text=True, check=False)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert second.returncode == 2
    assert str(first.pid) in second.stderr


def test_no_worker_outlives_a_killed_run(corpus, tmp_path):
    def slow(_body: dict, _number: int) -> Act:
        return Act(content=GOOD_REPLY, hang_seconds=5)

    with serving(slow) as [server]:
        process = subprocess.Popen(
            command(corpus, tmp_path / "run", *server_options(server.url)), stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not server.records and time.monotonic() < deadline:
            time.sleep(0.05)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert children
        process.kill()
        process.wait()
        while any(alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
