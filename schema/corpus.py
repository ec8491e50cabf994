"""How a corpus is named and read: recorded in run.json, so that later stages need no second argument."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .limits import Limits
from .records import Frozen, Task

CorpusKind = Literal["manifest", "parquet", "jsonl", "csv", "webdataset", "shards", "captions", "hf"]


class CorpusSpec(Frozen):
    """Where a corpus is and how its fields map to a record.

    `columns` maps tagmoe's fields (id, task, instruction, source, target, references, and anything to keep under
    another name) to the corpus's own columns: `a.b` is a member of a nested column, `a.0` an item of a list, `a|b`
    the first of the two that exists, `image@LEFT:TOP:WIDTH:HEIGHT` a part of a picture cell, `__key__` a tar's key, an
    empty text no column at all; reference columns are joined by `+`.
    """

    uri: str = Field(min_length=1)
    """Folder, file, fsspec URL, or `hf:NAME[[:CONFIG]:SPLIT]`."""
    kind: CorpusKind | None = None
    """None: told from the URI and what is there."""
    columns: dict[str, str] = {}
    preset: str | None = None
    """Name of a known corpus's column mapping."""
    task: Task | None = None
    """Task of records that do not state one; None: told from the images present."""
    name: str | None = None
    """Corpus name in uids; None: the last path component."""
    image_root: str | None = None
    """Folder or URL where picture paths start and stay; None: the folder of the file that names them."""
    limits: Limits = Limits()
