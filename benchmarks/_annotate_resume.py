"""What a kill at 90 % of a run costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _annotate_stub import MODEL, Stub, make_corpus, workspace
from _machine import machine, save


def bench_resume(*, records: int, side: int, concurrency: int, latency: float) -> None:
    """A run killed with SIGKILL when 90 % of its replies have come, and the same command again, beside a whole run.

    With no more records than a part has, everything that was finished lies in the ledger: the dearest place for a kill.
    """
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        stub = Stub(latency)
        started = time.time()
        assert _start(corpus, folder / "whole", url=stub.url, concurrency=concurrency).wait() == 0
        whole = time.time() - started
        begin = stub.answered()[0][0] - started
        started = time.time()
        process = _start(corpus, folder / "killed", url=stub.url, concurrency=concurrency)
        answered = 0
        while answered < 0.9 * records:
            answered += len(stub.answered())
        process.kill()
        process.wait()
        before_the_kill = time.time() - started
        time.sleep(2 * latency)
        stub.answered()
        started = time.time()
        assert _start(corpus, folder / "killed", url=stub.url, concurrency=concurrency).wait() == 0
        after_the_kill = time.time() - started
        asked = stub.answered()[1:]  # the control request comes first
        stub.stop()
        hashes = [json.loads((folder / run / "run.json").read_text())["run_hash"] for run in ("whole", "killed")]
    later = asked[0][0] - started
    redone = (answered + len(asked) - records) * latency / concurrency
    result = {
        "machine": machine("tagmoe", "openai"),
        "records": records,
        "whole_seconds": round(whole, 1),
        "first_request_of_a_fresh_run_seconds": round(begin, 2),
        "seconds_before_the_kill": round(before_the_kill, 1),
        "answered_before_the_kill": answered,
        "seconds_after_the_kill": round(after_the_kill, 1),
        "asked_after_the_kill": len(asked),
        "first_request_after_the_kill_seconds": round(later, 2),
        "cost_seconds": round(later + redone, 2),
        "cost_share": round((later + redone) / whole, 4),
        "both_runs_share": round((before_the_kill + after_the_kill) / whole - 1, 4),
        "same_bytes": hashes[0] == hashes[1],
        "load_average": os.getloadavg()[0],
    }
    summary = [
        f"### annotate: SIGKILL at 90 % of {records:,} records (server, concurrency {concurrency}), same command again",
        "",
        "| | |",
        "|---|---|",
        f"| whole run | {whole:.1f} s |",
        f"| until the kill; after it | {before_the_kill:.1f} s; {after_the_kill:.1f} s |",
        f"| first request after the start, fresh; resumed | {begin:.1f} s; {later:.1f} s |",
        f"| replies before the kill; requests after it | {answered:,}; {len(asked):,} |",
        f"| cost: start, reading the log, asking again what was under way | {later + redone:.1f} s, "
        f"{100 * result['cost_share']:.1f} % of the whole |",
        f"| both runs together against the whole one, by the clock | {100 * result['both_runs_share']:+.1f} % |",
        f"| same bytes | {result['same_bytes']} |",
        "",
        f"All finished records lay in the log of the part in progress, which is the dearest place for a kill. Load average "
        f"{result['load_average']:.1f}. Command: `python benchmarks/annotate.py resume`.",
    ]
    save("annotate_resume", result, summary="\n".join(summary))


def _start(corpus: Path, out: Path, *, url: str, concurrency: int) -> subprocess.Popen[bytes]:
    options = ["--annotator", "server", "--model", MODEL, "--endpoint", url, "--json"]
    settings = ["--set", f"vlm.server.concurrency={concurrency}"]
    command = [sys.executable, "-m", "tagmoe.cli", "annotate", str(corpus), "--out", str(out), *options, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
