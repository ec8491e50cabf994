"""The stream's promises: exactly once, the same order for any world, O(1) resume, named refusals."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_shards import build, make_run, mixed
from tagmoe.schema import ConfigError, DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.order import GroupOrder, Interleaving
from tagmoe.shards.permutation import Permutation
from tagmoe.shards.stream import ShardStream


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    records = mixed(100, kinds=("JPEG", "JPEG", "JPEG", "PNG"))
    build(make_run(folder, records, name="alpha"), folder / "shards")
    more = mixed(31, prefix="s")
    build(make_run(folder / "more", more, name="beta"), folder / "shards")
    return folder / "shards"


def open_stream(shards: Path, *, pictures: bool = True, **settings) -> ShardStream:
    config = StreamConfig.model_validate({"block_samples": 4, "window_blocks": 2, **settings})
    return ShardStream(shards, config=config, pictures=pictures)


def ids(batches) -> list[str]:
    return [sample.id for batch in batches for sample in batch.samples]


def epoch(stream: ShardStream, number: int = 0) -> list[str]:
    size = stream.batches_per_epoch
    return ids(stream.batches(start=number * size, stop=(number + 1) * size, prefetch=0))


@given(st.integers(0, 400) | st.integers(65530, 65545) | st.just(100_003), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(n, key):
    images = Permutation(n, key=key)(np.arange(n, dtype=np.uint64))
    assert np.array_equal(np.sort(images), np.arange(n, dtype=np.uint64))


def test_permutation_is_the_same_in_every_version():
    small = Permutation(10, key=7)(np.arange(10, dtype=np.uint64)).tolist()
    large = Permutation(10**12, key=7)(np.arange(3, dtype=np.uint64)).tolist()
    assert small == [7, 8, 1, 2, 3, 9, 5, 4, 0, 6]
    assert large == [459333549288, 276794416160, 928612823914]


@given(
    size=st.integers(0, 700),
    block=st.integers(1, 40),
    window=st.integers(1, 9),
    step=st.integers(1, 97),
    pass_=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_a_pass_visits_each_sample_once_in_any_pieces(size, block, window, step, pass_):
    order = GroupOrder(size, key=5, block=block, window=window)
    pieces = [order.positions(pass_, start=i, stop=min(i + step, size)) for i in range(0, size, step)]
    joined = np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)
    assert np.array_equal(np.sort(joined), np.arange(size, dtype=np.uint64))
    assert np.array_equal(joined, order.positions(pass_, start=0, stop=size))


def test_shuffling_keeps_reads_within_the_window():
    order = GroupOrder(4096, key=1, block=16, window=8)
    drawn = order.positions(0, start=0, stop=4096).astype(int)
    for start in range(0, 4096, 128):
        assert len({number // 16 for number in drawn[start : start + 128].tolist()}) == 8
    assert abs(np.corrcoef(drawn, np.arange(4096))[0, 1]) < 0.1
    assert not np.array_equal(drawn, order.positions(1, start=0, stop=4096).astype(int))


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=9), key=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_interleaving_is_a_bijection_with_even_families(counts, key):
    paths = [(("edit", "generation", "customization")[g % 3], f"s{g}") for g in range(len(counts))]
    tree = Interleaving(counts, paths=paths)
    places = [tree.locate(position, key=key) for position in range(tree.total)]
    assert sorted(places) == [(g, j) for g, count in enumerate(counts) for j in range(count)]
    for g in range(len(counts)):
        assert [j for group, j in places if group == g] == list(range(counts[g]))
    totals = Counter(paths[g][0] for g, _ in places)
    for family, total in totals.items():
        run = 0
        for position, (g, _) in enumerate(places, start=1):
            run += paths[g][0] == family
            assert abs(run - position * total / tree.total) <= 2.0


@given(
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
    worlds=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=6),
    ragged=st.sampled_from(["keep", "drop"]),
    pictures=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_every_sample_once_under_any_worlds_and_kills(shards, batch_size, seed, worlds, ragged, pictures):
    """Each (R, W, k): R ranks with W workers take k steps, then all are killed and the next world resumes.

    Ragged ends that are dropped leave out fewer than a batch of each group, and nothing is drawn twice for them.
    """
    chosen = {"batch_size": batch_size, "seed": seed, "ragged": ragged}
    stream = open_stream(shards, pictures=pictures, **chosen)
    unit = batch_size if ragged == "drop" else 1
    expected = sum(group.size // unit * unit for group in stream.groups)
    size = stream.batches_per_epoch
    seen: dict[int, list[str]] = {}
    start = 0
    for world, workers, steps in [*worlds, (1, 1, size)]:
        saved = json.loads(json.dumps(stream.state(start)))
        start = open_stream(shards, **chosen).resume(saved)
        stop = start + steps * world
        for rank in range(world):
            for worker in range(workers):
                for batch in stream.batches(
                    rank=rank, world=world, worker=worker, workers=workers, start=start, stop=stop, prefetch=0
                ):
                    assert batch.position not in seen
                    seen[batch.position] = [sample.id for sample in batch.samples]
        start = stop
    assert sorted(seen) == list(range(start))
    for number in range(start // size):
        drawn = [i for position in range(number * size, (number + 1) * size) for i in seen[position]]
        assert len(drawn) == expected == len(set(drawn))
    straight = [ids([stream.batch(position)]) for position in range(min(start, size))]
    assert straight == [seen[position] for position in range(min(start, size))]


def test_order_follows_from_seed_and_epoch_alone(shards):
    first = epoch(open_stream(shards, seed=1))
    assert first == epoch(open_stream(shards, seed=1))
    assert first != epoch(open_stream(shards, seed=2))
    assert first != epoch(open_stream(shards, seed=1), 1)
    assert sorted(first) == sorted(epoch(open_stream(shards, seed=1), 1))


def test_batches_are_uniform_and_families_mix(shards):
    stream = open_stream(shards, batch_size=2)
    batches = list(stream.batches(stop=stream.batches_per_epoch))
    for batch in batches:
        assert {(s.task, s.signature, s.bucket) for s in batch.samples} == {(batch.task, batch.signature, batch.bucket)}
    for i in range(len(batches) - 5):
        assert len({batch.task for batch in batches[i : i + 5]}) == 3


def test_ragged_keep_and_drop(shards):
    kept = open_stream(shards, batch_size=8)
    dropped = open_stream(shards, batch_size=8, ragged="drop")
    sizes = [len(batch) for batch in kept.batches(stop=kept.batches_per_epoch)]
    assert sum(sizes) == 131
    assert min(sizes) < 8
    assert {len(batch) for batch in dropped.batches(stop=dropped.batches_per_epoch)} == {8}
    assert len(epoch(dropped)) == sum(group.size // 8 * 8 for group in kept.groups)


def test_finite_end_over_ranks_gives_the_first_ranks_one_more(shards):
    stream = open_stream(shards, batch_size=8)
    counts = [len(list(stream.batches(rank=r, world=4, stop=10))) for r in range(4)]
    assert counts == [3, 3, 2, 2]


def test_prefetch_gives_the_same_batches(shards):
    stream = open_stream(shards, batch_size=4)
    assert epoch(stream) == ids(stream.batches(stop=stream.batches_per_epoch, prefetch=5))


def test_an_abandoned_iterator_ends_its_threads(shards):
    stream = open_stream(shards, batch_size=4)
    batches = stream.batches(prefetch=3)
    next(batches)
    batches.close()


def test_weights_draw_exactly_as_often_as_they_say(shards):
    stream = open_stream(shards, batch_size=1, weights={"corpus:beta": 2.0, "task:generation": 0.5})
    draws = Counter()
    for number in range(2):
        draws.update(epoch(stream, number))
    base = epoch(open_stream(shards, batch_size=1))
    generations = {f"{p}{i}" for p in "rs" for i in range(100) if i % 3 == 1}
    for name in base:
        per_epoch = (2.0 if name.startswith("s") else 1.0) * (0.5 if name in generations else 1.0)
        assert abs(draws[name] - 2 * per_epoch) <= 1
    assert draws["s0"] == 4
    assert draws["r0"] == 2
    assert draws["s1"] == 2


def test_tag_weights_and_tag_selection(shards):
    stream = open_stream(shards, batch_size=1, weights={"tag:image generation": 3.0, "tag:local editing": 0.0})
    draws = Counter(epoch(stream))
    assert {draws[f"r{i}"] for i in range(1, 100, 3)} == {3}
    assert not any(draws[f"r{i}"] for i in range(0, 100, 3))
    only = open_stream(shards, require_tags=["identity preservation"], exclude_tags=["local editing"])
    assert {sample.task for batch in only.batches(stop=only.batches_per_epoch) for sample in batch.samples} == {
        "customization"
    }


def test_selection_by_task_and_corpus(shards):
    stream = open_stream(shards, tasks=["edit"], corpora=["beta"])
    assert sorted(epoch(stream)) == sorted(f"s{i}" for i in range(0, 31, 3))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed"),
        ({"batch_size": 3}, "batching"),
        ({"tasks": ["edit"]}, "selection"),
        ({"snapshot": 1}, "snapshot"),
    ],
)
def test_resume_refuses_another_order_by_name(shards, change, named):
    state = open_stream(shards).state(7)
    with pytest.raises(ConfigError, match=named):
        open_stream(shards, **change).resume(state)


def test_an_older_snapshot_still_streams_as_before(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("TAGMOE_CACHE", str(tmp_path))
    assert sorted(epoch(open_stream(shards, snapshot=1))) == sorted(f"r{i}" for i in range(100))


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"split": "test"}, "split 'test'"),
        ({"corpora": ["gamma"]}, "corpus 'gamma'"),
        ({"require_tags": ["nonsense"]}, "tag 'nonsense'"),
        ({"require_tags": ["style transfer"]}, "no sample"),
        ({"batch_size": 500, "ragged": "drop"}, "fills a batch"),
    ],
)
def test_impossible_selections_name_themselves(shards, settings_, named):
    with pytest.raises(ConfigError, match=named):
        open_stream(shards, **settings_)


def test_no_set_there(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        ShardStream(tmp_path)


def test_state_is_small_and_pickled_streams_reopen(shards):
    stream = open_stream(shards, batch_size=3)
    assert len(json.dumps(stream.state(10**9))) < 400
    copy = pickle.loads(pickle.dumps(stream))
    assert epoch(copy) == epoch(stream)


def _epoch_in_child(stream, queue):
    queue.put(epoch(stream))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_read_the_same(shards, method):
    stream = open_stream(shards, batch_size=3)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_epoch_in_child, args=(stream, queue))
    child.start()
    drawn = queue.get(timeout=60)
    child.join()
    assert drawn == epoch(stream)
