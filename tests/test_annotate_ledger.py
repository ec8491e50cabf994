"""The ledger: what was committed is read back whatever happened to the tail."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_annotate import make_labels, make_pair, outcome_of
from tagmoe.annotate.base import Failure, Labels, Provenance
from tagmoe.annotate.ledger import RECORDS, REPLIES, Ledger, content_key
from tagmoe.annotate.patience import patiently
from tagmoe.schema import LockedError, Reject, StoppedError
from tagmoe.shards.lock import locked

probability = st.none() | st.floats(0, 1, width=32)
replies = st.builds(
    Labels,
    tag_ids=st.lists(st.integers(0, 17), max_size=4).map(tuple),
    tag_probs=st.lists(probability, max_size=18).map(tuple),
    tag_probs_raw=st.lists(probability, max_size=18).map(tuple),
    warnings=st.lists(st.text(max_size=9), max_size=2).map(tuple),
    usage=st.tuples(st.integers(0, 9999), st.integers(0, 9999)),
) | st.builds(Failure, reason=st.just("invalid_reply"), detail=st.text(max_size=30))
logs = st.dictionaries(st.text("0123456789abcdef", min_size=64, max_size=64), replies, max_size=8)


@settings(max_examples=60, deadline=None)
@given(logs, st.data())
def test_any_damage_to_the_tail_keeps_every_line_before_it(tmp_path_factory, log, data):
    path = tmp_path_factory.mktemp("ledger") / "part.log"
    ledger = Ledger(path, REPLIES)
    sizes = [0]
    for key, reply in log.items():
        ledger.append(key, reply)
        ledger.commit()
        sizes.append(path.stat().st_size)
    ledger.close()
    cut = data.draw(st.integers(0, sizes[-1]))
    flip = data.draw(st.booleans())
    whole = bytearray(path.read_bytes())
    if flip and cut < len(whole):
        whole[cut] ^= 0x41
        path.write_bytes(bytes(whole))
    else:
        path.write_bytes(bytes(whole[:cut]))
    kept = max(i for i, size in enumerate(sizes) if size <= cut)
    with closing(Ledger(path, REPLIES)) as again:
        assert len(again) == kept
        assert {key: again.get(key) for key in list(log)[:kept]} == dict(list(log.items())[:kept])
        # What is appended after the damage is readable too.
        again.append("f" * 64, make_labels())
    with closing(Ledger(path, REPLIES)) as third:
        assert third.get("f" * 64) == make_labels()


def test_records_survive_the_log(tmp_path: Path):
    record = outcome_of(make_pair(3, "make it \u2028 red"))
    reject = Reject(row=4, id="r4", stage="decode", reason="not_an_image", detail="d")
    with closing(Ledger(tmp_path / "part.log", RECORDS)) as ledger:
        ledger.append("3", record)
        ledger.append("4", reject)
    with closing(Ledger(tmp_path / "part.log", RECORDS)) as again:
        assert list(again.values()) == [record, reject]


def test_no_record_is_durable_before_the_reply_it_was_made_from(tmp_path: Path):
    with (
        closing(Ledger(tmp_path / "part.log", REPLIES)) as replies,
        closing(Ledger(tmp_path / "part.rows.log", RECORDS, after=replies)) as records,
    ):
        replies.append("a" * 64, make_labels())
        records.append("3", outcome_of(make_pair(3, "make it red")))
        records.commit()
        assert (tmp_path / "part.log").stat().st_size > 0


def test_a_commit_is_due_after_a_hundred_replies_or_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 7.0
    monkeypatch.setattr("tagmoe.annotate.ledger.time.monotonic", lambda: now)
    ledger = Ledger(tmp_path / "part.log", REPLIES)
    for i in range(99):
        ledger.append(f"{i:064d}", make_labels())
    assert not ledger.due
    ledger.append("a" * 64, make_labels())
    assert ledger.due
    ledger.commit()
    assert not ledger.due
    assert ledger.due_in is None
    ledger.append("b" * 64, make_labels())
    now += 0.75
    assert (ledger.due, ledger.due_in) == (False, 0.25)
    now += 0.5
    assert (ledger.due, ledger.due_in) == (True, 0)
    ledger.remove()
    assert not (tmp_path / "part.log").exists()


def test_a_full_disk_is_a_stop_and_the_commit_can_be_repeated(tmp_path: Path):
    """RLIMIT_FSIZE makes the kernel refuse the write in the middle, as a full disk does."""
    ledger = Ledger(tmp_path / "part.log", REPLIES)
    ledger.append("a" * 64, make_labels())
    ledger.commit()
    before = (tmp_path / "part.log").read_bytes()
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))
        ledger.append("b" * 64, make_labels())
        with pytest.raises(StoppedError, match="same command again"):
            patiently(ledger.commit, seconds=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    ledger.commit()
    ledger.close()
    with closing(Ledger(tmp_path / "part.log", REPLIES)) as again:
        assert (again.get("a" * 64), again.get("b" * 64), len(again)) == (make_labels(), make_labels(), 2)


def test_the_content_key_covers_everything_that_determines_a_reply():
    base = Provenance(annotator="a", model="m", model_revision="r", prompt_version="p", settings="s")
    keys = {
        content_key(make_pair(0), {"source": "x"}, base),
        content_key(make_pair(0, "other"), {"source": "x"}, base),
        content_key(make_pair(0).model_copy(update={"task": "customization"}), {"source": "x"}, base),
        content_key(make_pair(0), {"target": "x"}, base),
        content_key(make_pair(0), {"source": "y"}, base),
        *(
            content_key(make_pair(0), {"source": "x"}, Provenance(**{**vars_of(base), name: "other"}))
            for name in vars_of(base)
        ),
    }
    assert len(keys) == 5 + 5
    assert content_key(make_pair(7), {"source": "x"}, base) == content_key(make_pair(0), {"source": "x"}, base)


def vars_of(provenance: Provenance) -> dict[str, str]:
    return {name: getattr(provenance, name) for name in Provenance.__slots__}


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tagmoe.shards.lock import locked\n"
        "with locked(Path(sys.argv[1]), what='run'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=str(holder.pid)), locked(tmp_path / "lock", what="run"):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with locked(tmp_path / "lock", what="run"):
        pass
