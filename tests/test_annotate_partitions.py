"""Partitions and merge: every part exactly once, whatever n was, and damage is named."""

from pathlib import Path

import pytest
from support_annotate import make_pair, outcome_of
from tagmoe.annotate.partitions import durable_elsewhere, merge, partition_root
from tagmoe.annotate.parts import found_part, part_count, rows_of
from tagmoe.schema import PART_ROWS, CorpusSpec, DataError, Reject, Run, RunInfo
from tagmoe.schema.runs import check_part, part_paths, save_part, save_run_info

ROWS = 3 * PART_ROWS - 5


def save_partition(out: Path, index: int, count: int, parts: list[int], **changes: object) -> Path:
    root = partition_root(out, (index, count))
    infos = [save_part(root, part, [outcome_of(make_pair(part * PART_ROWS))], tokens=(3, 1)) for part in parts]
    fields = {"fingerprint": "f", "annotator": "a@1"} | changes
    info = RunInfo(
        taxonomy="tagmoe-18@1", corpus=CorpusSpec(uri="c"), corpus_name="c", rows=ROWS, complete=True,
        partition=(index, count), parts=infos, timings={"annotate": 2.0}, **fields,
    )  # fmt: skip
    save_run_info(root, info)
    return root


def test_rows_of_parts_cover_the_corpus_once():
    assert part_count(ROWS) == 3
    assert [row for part in range(3) for row in rows_of(part, rows=ROWS)] == list(range(ROWS))


def test_merge_joins_partitions_of_different_counts(tmp_path):
    save_partition(tmp_path, 0, 2, [0, 2])
    save_partition(tmp_path, 1, 3, [1])
    info = merge(tmp_path)
    assert [part.part for part in info.parts] == [0, 1, 2]
    assert (info.complete, info.partition, info.timings) == (True, None, {"annotate": 4.0})
    run = Run.open(tmp_path)
    assert [record.row for record in run.annotations()] == [0, PART_ROWS, 2 * PART_ROWS]
    assert run.info.run_hash == run.hash_of_parts()
    assert merge(tmp_path).run_hash == info.run_hash


def test_a_part_made_by_another_partition_is_not_made_again(tmp_path):
    first = save_partition(tmp_path, 0, 2, [0, 2])
    mine = partition_root(tmp_path, (0, 4))
    assert durable_elsewhere(tmp_path, mine, 2)
    assert not durable_elsewhere(tmp_path, mine, 1)
    assert not durable_elsewhere(tmp_path, first, 2)


def test_merge_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="nothing to merge"):
        merge(tmp_path)
    first = save_partition(tmp_path, 0, 2, [0, 2])
    with pytest.raises(DataError, match=r"1 of 3 parts are missing \(1\)"):
        merge(tmp_path)
    second = save_partition(tmp_path, 1, 2, [1, 2])
    with pytest.raises(DataError, match="part 2 is in partition-0-of-2 and partition-1-of-2"):
        merge(tmp_path)
    save_partition(tmp_path, 1, 2, [1], annotator="b@1")
    with pytest.raises(DataError, match="partition-1-of-2 differs from partition-0-of-2 in annotator"):
        merge(tmp_path)
    save_partition(tmp_path, 1, 2, [1])
    path = part_paths(first, 2)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="part 2 of"):
        merge(tmp_path)
    assert second.exists()


def reject(row: int) -> Reject:
    return Reject(row=row, id=f"r{row}", stage="annotate", reason="invalid_reply", detail="d")


def test_a_part_torn_between_its_two_files_keeps_each_row_once(tmp_path):
    outcomes = [outcome_of(make_pair(0)), reject(1), reject(2), outcome_of(make_pair(3))]
    save_part(tmp_path, 0, outcomes)
    assert sorted(o.row for o in found_part(tmp_path, 0)) == [0, 1, 2, 3]
    # A retry turned row 1 into an annotation and was killed before the rejects file was renamed.
    old_rejects = part_paths(tmp_path, 0)[1].read_bytes()
    wanted = [outcome_of(make_pair(0)), outcome_of(make_pair(1)), reject(2), outcome_of(make_pair(3))]
    info = save_part(tmp_path, 0, wanted)
    part_paths(tmp_path, 0)[1].write_bytes(old_rejects)
    with pytest.raises(DataError, match="part 0 of"):
        check_part(tmp_path, info)
    found = sorted(found_part(tmp_path, 0), key=lambda outcome: outcome.row)
    assert found == wanted
    assert save_part(tmp_path, 0, found) == info
    check_part(tmp_path, info)
    part_paths(tmp_path, 0)[0].write_bytes(b"torn")
    assert list(found_part(tmp_path, 0)) == []
