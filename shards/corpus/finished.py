"""Finished shards as a corpus: each sample with the id, corpus and extra fields it was built from."""

from __future__ import annotations

import json
from typing import cast

from pydantic import ValidationError

from ...schema import DataError
from ...schema.shards import Snapshot
from ..layout import parse_shard_name
from .store import Store
from .table import BadRow, Row, Value
from .tars import Sample, TarTable

_FIELDS = ("id", "task", "instruction")


class ShardTable(TarTable):
    """One tar of a shard set. Tags are left behind: the record is read to be annotated or audited again."""

    def to_row(self, sample: Sample) -> Row | BadRow:
        """The original record of a sample."""
        row = super().to_row(sample)
        if isinstance(row, BadRow):
            return row
        record = row.fields
        corpus = record.get("corpus")
        pictures = {name: value for name, value in record.items() if name in ("source", "target") or name[:3] == "ref"}
        fields: dict[str, Value] = {name: record.get(name) for name in _FIELDS}
        extra: dict[str, Value] = {"split": record.get("split")} | _extra(record.get("extra"))
        name = corpus if isinstance(corpus, str) and corpus else None
        return Row({**fields, **pictures}, folder=row.folder, key=row.key, corpus=name, extra=extra)


def shard_files(store: Store, manifest: str) -> list[str]:
    """Tars of the newest snapshot, in its order.

    Raises:
        DataError: the manifest is damaged or names something else than shards.
    """
    with store.open(manifest) as stream:
        data = stream.read()
    try:
        snapshot = Snapshot.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{store.root}/{manifest} is no manifest of shards: {error.errors()[0]['msg']}") from error
    names = [shard.name for shard in snapshot.shards]
    for name in names:
        if parse_shard_name(name) is None:
            raise DataError(f"{store.root}/{manifest} names {name!r:.200}, which is no shard")
    return [f"{name}.tar" for name in names]


def _extra(text: Value) -> dict[str, Value]:
    try:
        value: object = json.loads(text) if isinstance(text, str) and text else {}
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Value]", value) if isinstance(value, dict) else {}
