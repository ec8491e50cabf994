"""The loaders that the stream is compared with, each over the same samples and as its own documentation advises.

A peer gives an iterator of one shuffled epoch of (KEY.json, [encoded pictures]) in one process. LitData reads chunks
of its own, made once from the tars; Megatron-Energon and webdataset read the tars themselves.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import webdataset as wds

Raw = tuple[bytes, list[bytes]]
SHUFFLE_BUFFER = 1000


def webdataset(shards: Path, *, urls: list[str] | None = None) -> Iterator[Raw]:
    """Shards in random order through a shuffle buffer."""
    urls = urls or [str(path) for path in sorted(shards.glob("*.tar"))]
    for sample in wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(SHUFFLE_BUFFER):
        yield sample["json"], [sample["source.jpg"], sample["target.jpg"]]
    gc.collect()  # tarfile objects in cycles keep files open


def over_curl(url: str, shards: Path) -> Iterator[Raw]:
    """webdataset's own way over HTTP: whole shards through curl."""
    return webdataset(shards, urls=[f"pipe:curl -s -f {url}/{path.name}" for path in sorted(shards.glob("*.tar"))])


def _member_bytes(place: tuple[str, int, int, int, int, int, int]) -> dict[str, bytes]:
    tar, *spans = place
    with Path(tar).open("rb") as stream:
        parts = [os.pread(stream.fileno(), spans[i + 1], spans[i]) for i in (0, 2, 4)]
    return dict(zip(("json", "source", "target"), parts, strict=True))


def prepare_litdata(shards: Path, out: Path) -> Path:
    """LitData's binary chunks of 64 MB, by `litdata.optimize`."""
    if not (out / "index.json").is_file():
        import litdata

        places = []
        for path in sorted(shards.glob("*.tar")):
            with tarfile.open(path) as tar:
                flat = [number for member in tar for number in (member.offset_data, member.size)]
            places += [(str(path), *flat[i : i + 6]) for i in range(0, len(flat), 6)]
        litdata.optimize(
            fn=_member_bytes, inputs=places, output_dir=str(out), chunk_bytes="64MB", num_workers=1, verbose=False
        )
    return out


def litdata_chunks(chunks: Path, *, full: bool) -> Iterator[Raw]:
    """Shuffled by LitData: within blocks of 256 (its default), or (`full`) within whole chunks."""
    import litdata

    window = "full" if full else None
    for sample in litdata.StreamingDataset(str(chunks), shuffle=True, item_shuffle_window=window):
        yield sample["json"], [sample["source"], sample["target"]]


def prepare_energon(shards: Path, out: Path) -> Path:
    """The tars (links) with Energon's own index beside them, by `energon prepare`."""
    if not (out / ".nv-meta" / "dataset.yaml").is_file():
        out.mkdir(parents=True, exist_ok=True)
        for path in shards.glob("*.tar"):
            (out / path.name).unlink(missing_ok=True)
            os.link(path, out / path.name)
        tool = Path(sys.executable).with_name("energon")
        options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", "--no-progress"]
        subprocess.run([tool, "prepare", out, *options, "--force-overwrite"], check=True, stdout=subprocess.DEVNULL)
    return out


def energon(prepared: Path) -> Iterator[Raw]:
    """Energon's training data set with its shuffle buffer, bytes as they are."""
    from _energon import epoch

    return epoch(prepared, buffer=SHUFFLE_BUFFER)


def available(name: str) -> bool:
    """Whether a peer is installed here."""
    return find_spec(name) is not None


def drain(samples: Callable[[], Iterator[Raw]], *, epochs: int = 1) -> int:
    """Read so many epochs; count their samples."""
    return sum(1 for _ in range(epochs) for _ in samples())


def parse(samples: Callable[[], Iterator[Raw]]) -> int:
    """Read an epoch with KEY.json parsed."""
    count = 0
    for text, _ in samples():
        json.loads(text)
        count += 1
    return count
