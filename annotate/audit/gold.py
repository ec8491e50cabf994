"""Verified records as JSON lines: what they say, reading them, writing them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...schema import DataError
from ...schema.files import write_text


class GoldRecord(BaseModel):
    """One verified record, as a line of gold JSONL. It is found by `uid`, or by corpus name and id."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    corpus: str = Field("", alias="set")
    id: str = ""
    uid: str = ""
    tags: tuple[str, ...]
    disputed: tuple[str, ...] = ()
    """Tags on which reviewers differ: neither right nor wrong, left out of every score."""
    mismatch: str | None = None
    """Why the target does not do what the instruction asks, if so."""
    mismatch_disputed: bool = False
    task: str = ""
    instruction: str = ""
    """Kept so that gold can be learned from without its run."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold file."""

    source: str
    records: tuple[GoldRecord, ...]

    @classmethod
    def load(cls, path: Path) -> Gold:
        """Read gold JSONL; a later line about the same record replaces an earlier one.

        Raises:
            DataError: unreadable, or a line that is not a gold record; names the line.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"gold file {path} cannot be read: {error}") from error
        found: dict[tuple[str, str, str], GoldRecord] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                record = _parse(line, place=f"{path} line {number}")
                found[record.uid or "", "" if record.uid else record.corpus, "" if record.uid else record.id] = record
        return cls(path.name, tuple(found.values()))


def _parse(line: str, *, place: str) -> GoldRecord:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and "corpus" in value:
            value["set"] = value.pop("corpus")
        record = GoldRecord.model_validate(value)
    except (json.JSONDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error), "loc": ()}
        raise DataError(f"{place} is no gold record: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    if not record.uid and not record.id:
        raise DataError(f"{place} names no record: expected `uid`, or `corpus` and `id`")
    return record


def write_gold(path: Path, records: Iterable[GoldRecord]) -> None:
    """Write gold JSONL atomically."""
    rows = (
        {"corpus": r.corpus, **r.model_dump(exclude={"corpus"}, exclude_defaults=True), "tags": r.tags} for r in records
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
