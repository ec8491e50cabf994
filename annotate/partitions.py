"""Slurm-array style work: each partition in a folder of its own, `merge` joins them when every part is there once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..schema import DataError, Run, RunInfo
from ..schema.files import explain, sync_folder
from ..schema.runs import PartInfo, check_part, part_paths, save_run_info
from ..shards.lock import locked
from .parts import part_count

_SAME = ("taxonomy", "annotator", "settings_hash", "corpus_name", "fingerprint", "rows")


def partition_root(out: Path, partition: tuple[int, int]) -> Path:
    """Folder of partition (i, n) under RUN."""
    index, count = partition
    return out / f"partition-{index}-of-{count}"


def _partitions(out: Path) -> Iterator[Run]:
    for folder in sorted(out.glob("partition-*-of-*")):
        if (folder / "run.json").is_file():
            yield Run.open(folder, allow_incomplete=True)


def durable_elsewhere(out: Path, root: Path, part: int) -> bool:
    """Whether another partition's folder (made with another n, say) already holds `part`."""
    return any(
        part == info.part
        for run in _partitions(out)
        if run.root != root
        for info in run.info.parts
        if all(path.is_file() for path in part_paths(run.root, part))
    )


def merge(out: Path) -> RunInfo:
    """Join the partitions under RUN into RUN itself; their files are linked, not copied, where possible.

    Raises:
        DataError: no partitions, partitions of different corpora or settings, a part that is missing, damaged or there
            twice; names it.
        LockedError: another process works on RUN.
    """
    runs = list(_partitions(out))
    if not runs:
        raise DataError(f"{out} holds no partition-*-of-* folder with a run.json: nothing to merge")
    first = runs[0]
    for run in runs[1:]:
        for name in _SAME:
            was, now = getattr(first.info, name), getattr(run.info, name)
            if was != now:
                raise DataError(f"{run.root.name} differs from {first.root.name} in {name}: {now} against {was}")
    found: dict[int, tuple[Run, PartInfo]] = {}
    for run in runs:
        for part in run.info.parts:
            if part.part in found:
                names = f"{found[part.part][0].root.name} and {run.root.name}"
                raise DataError(f"part {part.part} is in {names}: delete it from one of them, then merge again")
            found[part.part] = (run, part)
    missing = sorted(set(range(part_count(first.info.rows))) - found.keys())
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise DataError(
            f"{len(missing)} of {part_count(first.info.rows)} parts are missing ({shown}): finish their partitions"
        )
    with locked(out / "lock", what=str(out)):
        for run, part in found.values():
            check_part(run.root, part)
            for source, target in zip(part_paths(run.root, part.part), part_paths(out, part.part), strict=True):
                _link(source, target)
        parts = [found[index][1] for index in sorted(found)]
        timings = {"annotate": round(sum(run.info.timings.get("annotate", 0.0) for run in runs), 3)}
        info = first.info.model_copy(update={"parts": parts, "partition": None, "complete": True, "timings": timings})
        info.run_hash = Run(out, info).hash_of_parts()
        save_run_info(out, info)
    return info


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        sync_folder(target.parent)
    except OSError as error:
        raise explain(error, target) from error
