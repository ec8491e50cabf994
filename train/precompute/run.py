"""`tagmoe precompute`: one sibling tar a shard, resumable, any shard on any machine."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...schema import ConfigError
from ...schema.files import atomic_file, write_text
from ...schema.shards import ShardInfo, Snapshot
from ...shards.console import Meter, err, progress
from ...shards.corpus import ImageRejected
from ...shards.crc import checksum
from ...shards.index import read_index
from ...shards.layout import index_name
from ...shards.lock import locked
from ...shards.manifest import load_snapshot
from ...shards.sample import Sample, parse_sample
from ...shards.source import LocalSource
from ...shards.tars import BadSpan
from ...shards.tensors import (
    MANIFEST,
    MAP,
    NULL,
    TensorsInfo,
    fingerprint_hash,
    read_rows,
    tensors_folder,
    write_map,
    write_rows,
)
from .encoders import Encoders, Tensors
from .storage import Estimate, estimate_storage
from .tars import TensorTar, npy

Row = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Job:
    """What is made of which shards."""

    root: Path
    snapshot: Snapshot
    shards: list[ShardInfo]
    """Of this partition."""
    folder: Path
    encoders: Encoders
    fingerprint: dict[str, str | int]
    batch: int
    """Samples encoded together."""

    @property
    def fingerprint_hash(self) -> str:
        """Hex sha256 of the fingerprint."""
        return fingerprint_hash(self.fingerprint)

    def pending(self) -> list[ShardInfo]:
        """Shards of this partition that `run_job` will encode: without tensors, or with torn or other ones."""
        made = self.fingerprint_hash
        return [shard for shard in self.shards if read_rows(self.folder, shard, fingerprint=made) is None]

    def estimate(self) -> Estimate:
        """Bytes of this partition."""
        return estimate_storage(
            self.root,
            self.snapshot,
            shards=self.shards,
            text=self.encoders.text,
            channels=self.encoders.pictures.channels,
            area=self.encoders.settings.area,
            references=self.encoders.settings.max_references,
        )


def plan_job(
    root: Path,
    *,
    name: str,
    encoders: Encoders,
    fingerprint: dict[str, str | int],
    batch: int = 8,
    partition: tuple[int, int] = (0, 1),
) -> Job:
    """The shards i, i + n, ... of the newest snapshot.

    Raises:
        DataError: `root` is no shard set.
    """
    snapshot = load_snapshot(root)
    mine = [shard for number, shard in enumerate(snapshot.shards) if number % partition[1] == partition[0]]
    folder = tensors_folder(root, name)
    return Job(root, snapshot, mine, folder, encoders, fingerprint, batch)


def run_job(job: Job, *, estimate: Estimate) -> TensorsInfo | None:
    """Encode what is not done yet; tensors.json once every shard of the snapshot is done, else None.

    Raises:
        ConfigError: the disk has less room than the estimate.
        LockedError: another process makes one of these shards.
    """
    _require_space(job, estimate)
    job.folder.mkdir(parents=True, exist_ok=True)
    with progress("precompute", total=sum(shard.samples for shard in job.shards), unit="samples") as meter:
        for shard in job.shards:
            with locked(job.folder / f".{shard.name}.lock", what=f"tensors of {shard.name}"):
                if read_rows(job.folder, shard, fingerprint=job.fingerprint_hash) is not None:
                    meter.skip(shard.samples)
                    continue
                _write_shard(job, shard, meter=meter)
    return finish(job)


def finish(job: Job) -> TensorsInfo | None:
    """Write null.npy, the map and tensors.json if every shard of the snapshot is done."""
    tables: list[pa.Table] = []
    for shard in job.snapshot.shards:
        table = read_rows(job.folder, shard, fingerprint=job.fingerprint_hash)
        if table is None:
            return None
        tables.append(table)
    null = npy(job.encoders.null_text().half().cpu().numpy())
    with atomic_file(job.folder / NULL) as stream:
        stream.write(null)
    write_map(job.folder / MAP, tables)
    sizes = [table.column("size").to_numpy() for table in tables]
    info = TensorsInfo(
        fingerprint=job.fingerprint,
        fingerprint_hash=job.fingerprint_hash,
        content_hash=job.snapshot.content_hash,
        channels=job.encoders.pictures.channels,
        text_dim=job.encoders.text.dim,
        shards=tuple(shard.name for shard in job.snapshot.shards),
        samples=sum(len(column) for column in sizes),
        missing=sum(int((column == 0).sum()) for column in sizes),
        bytes=sum((job.folder / f"{shard.name}.tar").stat().st_size for shard in job.snapshot.shards),
        null_sha256=hashlib.sha256(null).hexdigest(),
    )
    write_text(job.folder / MANIFEST, info.model_dump_json(indent=1) + "\n")
    return info


def _write_shard(job: Job, shard: ShardInfo, *, meter: Meter) -> None:
    rows: list[Row] = []
    (job.folder / f"{shard.name}.parquet").unlink(missing_ok=True)
    with atomic_file(job.folder / f"{shard.name}.tar") as stream:
        tar = TensorTar(stream)
        for batch in _batches(job, shard):
            readable = [sample for _, sample in batch if sample is not None]
            encoded = iter(_encode(job.encoders, readable))
            for key, sample in batch:
                tensors = next(encoded) if sample is not None else None
                if tensors is None:
                    rows.append((key, 0, 0, 0))
                    continue
                offset, data = tar.add(key, _arrays(tensors))
                rows.append((key, offset, len(data), checksum(data)))
            meter.update(len(batch))
        size = tar.close()
    write_rows(
        job.folder / f"{shard.name}.parquet", rows, shard=shard, fingerprint=job.fingerprint_hash, tensor_bytes=size
    )


def _batches(job: Job, shard: ShardInfo) -> Iterator[list[tuple[str, Sample | None]]]:
    """Samples of a shard in index order; None where the bytes are not those that were written."""
    table = read_index(job.root / index_name(shard.name), columns=["key", "offset", "size", "crc32"])
    source = LocalSource(job.root)
    try:
        batch: list[tuple[str, Sample | None]] = []
        for row in table.to_pylist():
            batch.append((row["key"], _read(source, shard.name, row)))
            if len(batch) == job.batch:
                yield batch
                batch = []
        if batch:
            yield batch
    finally:
        source.close()


def _read(source: LocalSource, shard: str, row: dict[str, int]) -> Sample | None:
    try:
        return parse_sample(source.read(shard, offset=row["offset"], size=row["size"], crc32=row["crc32"]))
    except BadSpan as error:
        err.print(f"{shard} {row['key']}: {error}; left out: `tagmoe verify` says more", markup=False)
        return None


def _encode(encoders: Encoders, samples: list[Sample]) -> list[Tensors | None]:
    """Tensors of every sample; None, and a line, where a picture cannot be decoded."""
    try:
        return list(encoders.encode(samples)) if samples else []
    except ImageRejected as error:
        if len(samples) > 1:
            return [one for sample in samples for one in _encode(encoders, [sample])]
        err.print(f"record {samples[0].id}: {error.detail}; left out", markup=False)
        return [None]


def _arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    named = {**tensors.latents, "text": tensors.text_SD}
    return {name: value.half().cpu().numpy() for name, value in named.items()}


def _require_space(job: Job, estimate: Estimate) -> None:
    place = job.root
    free = shutil.disk_usage(place).free
    done = sum(path.stat().st_size for path in job.folder.glob("*.tar")) if job.folder.is_dir() else 0
    if estimate.total - done > free:
        raise ConfigError(
            f"the tensors need {(estimate.total - done) / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free: make "
            "room, or train with data.encoder=online"
        )
