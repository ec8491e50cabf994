"""Shards and corpora over hf://, through huggingface_hub's own file system, against a local hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support_hub import REPO, Hub, hub
from support_shards import build, make_run, mixed
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    build(make_run(folder, mixed(30)), folder / "shards", shard_samples=10)
    return folder


def asked(site: Hub, script: str, *arguments: str):
    """What a fresh process prints as JSON: the library reads its endpoint once, when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": site.url, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-c", script, f"hf://datasets/{REPO}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STREAM = """
import json, sys
from pathlib import Path
from tagmoe.schema import DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards import remote
from tagmoe.shards.stream import ShardStream
url, cache = sys.argv[1], Path(sys.argv[2])
remote._WAITS, remote.CHUNK_BYTES = (0.01, 0.02), 16 << 10
stream = ShardStream(url, config=StreamConfig(batch_size=4), cache=cache)
batches = stream.batches(stop=stream.batches_per_epoch)
found = [[s.uid, {role: data.hex() for role, data in s.images.items()}] for batch in batches for s in batch.samples]
try:
    ShardStream(url + "/nothing", cache=cache)
except DataError as error:
    found.append(str(error))
print(json.dumps(found))
"""


def test_a_stream_over_hf_gives_what_the_folder_gives_also_through_a_fault(made, tmp_path):
    with hub(made / "shards") as site:
        site.fail = 1
        *found, missing = asked(site, STREAM, str(tmp_path))
    stream = ShardStream(made / "shards", config=StreamConfig(batch_size=4))
    batches = stream.batches(stop=stream.batches_per_epoch)
    assert found == [
        [s.uid, {role: data.hex() for role, data in s.images.items()}] for batch in batches for s in batch.samples
    ]
    assert "does not exist: is this a shard set?" in missing
    assert {name for name in site.ranges if name.endswith(".tar")} == {p.name for p in (made / "shards").glob("*.tar")}


CORPUS = """
import json, sys
from tagmoe.schema import CorpusSpec
from tagmoe.shards.corpus import open_corpus
corpus = open_corpus(CorpusSpec(uri=sys.argv[1]))
pairs = list(corpus.records())
print(json.dumps([[pair.id, {ref.uri: corpus.read_image(ref).hex() for ref in pair.images}] for pair in pairs]))
"""


def test_a_corpus_over_hf_reads_rows_and_pictures(made):
    with hub(made / "corpus") as site:
        found = asked(site, CORPUS)
    assert len(found) == 30
    for _, pictures in found:
        assert pictures
        assert all(bytes.fromhex(data) == (made / "corpus" / uri).read_bytes() for uri, data in pictures.items())
