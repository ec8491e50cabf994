"""Worker processes: every pair exactly once, also when a record kills its worker or the workers cannot start."""

import pytest
from support_annotate import make_broken, make_dying, make_labelling, make_pair
from tagmoe.annotate.workers import WorkerPool
from tagmoe.schema import Annotation, Reject, StoppedError


def run(make_work, pairs, **sizes):
    pool = WorkerPool(make_work, workers=2, chunk=4, **sizes)
    try:
        return list(pool.run(pairs))
    finally:
        pool.close()


def test_each_pair_comes_out_once():
    results = run(make_labelling, (make_pair(i) for i in range(50)), prefetch=8)
    assert sorted(result.row for result in results) == list(range(50))
    assert all(isinstance(result, Annotation) for result in results)


def test_only_the_record_that_kills_is_rejected():
    pairs = [make_pair(i, "kill" if i in (5, 17) else "fine") for i in range(30)]
    results = run(make_dying, pairs)
    assert sorted(result.row for result in results) == list(range(30))
    rejected = {result.row: result.reason for result in results if isinstance(result, Reject)}
    assert rejected == {5: "worker_crashed", 17: "worker_crashed"}


def test_workers_that_all_die_stop_the_run_instead_of_rejecting_the_corpus():
    with pytest.raises(StoppedError, match="10 records in a row"):
        run(make_dying, [make_pair(i, "kill") for i in range(12)])


def test_a_fault_of_the_setup_is_raised_as_it_is():
    with pytest.raises(ValueError, match="another planet"):
        run(make_broken, [make_pair(0)])
