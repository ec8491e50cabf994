"""One shard's tar against its index: every member that is not as it was written, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..schema.shards import MAX_JSON_BYTES
from .findings import Code, Finding
from .index import IndexRow
from .layout import parse_member
from .tars import BLOCK
from .walk import Damage, Entry, TarWalk

_SHOWN = 20
"""Findings of one code in one shard before the rest is only counted."""


_Raw = tuple[Code, str, str]
"""Code, member or key, detail."""


@dataclass(frozen=True, slots=True)
class _Expected:
    header: int
    size: int
    crc32: int


def compare(tar: str, walk: TarWalk, *, rows: Sequence[IndexRow] | None) -> list[Finding]:
    """Findings of one tar; without `rows` only what the tar says by itself."""
    found: list[_Raw] = [*_unsafe(walk.entries)]
    if rows is not None:
        found += _against_index(walk, rows)
    elif walk.damage:
        for damage in walk.damage:
            found.append((_code(damage), "", f"at byte {damage.offset}: {damage.detail}"))
    if not walk.ended and not any(damage.kind == "torn" for damage in walk.damage):
        found.append(("torn_tar", "", f"{walk.size} bytes without the end of the archive"))
    return list(_bounded(tar, found))


def _code(damage: Damage) -> Code:
    return "torn_tar" if damage.kind == "torn" else "flipped_bytes"


def _unsafe(entries: Sequence[Entry]) -> Iterator[_Raw]:
    for entry in entries:
        if entry.kind != "0":
            yield (
                "special_member",
                entry.name,
                f"tar type {entry.kind!r}: only plain files are allowed (no links, folders)",
            )
        elif entry.name.startswith(("/", "\\")) or ".." in entry.name.replace("\\", "/").split("/"):
            yield "unsafe_name", entry.name, "a name that leaves the folder it is extracted to"
        elif parse_member(entry.name) is None:
            yield (
                "forbidden_member",
                entry.name,
                "only KEY.json and KEY.ROLE.jpg|png|webp|... belong here (never a pickle)",
            )
        elif entry.name.endswith(".json") and entry.size > MAX_JSON_BYTES:
            yield "oversized_member", entry.name, f"{entry.size} bytes of JSON (at most {MAX_JSON_BYTES})"


def _against_index(walk: TarWalk, rows: Sequence[IndexRow]) -> Iterator[_Raw]:
    expected = {
        f"{row['key']}.{member['name']}": _Expected(member["offset"] - BLOCK, member["size"], member["crc32"])
        for row in rows
        for member in row["members"]
    }
    by_header = {place.header: name for name, place in expected.items()}
    keys = {row["key"] for row in rows}
    seen: set[str] = set()
    for damage in walk.damage:
        name = by_header.get(damage.offset, "")
        if damage.kind != "padding":
            seen.add(name)
        yield _code(damage), name, f"at byte {damage.offset}: {damage.detail}"
    for entry in walk.entries:
        place = expected.get(entry.name)
        if entry.name in seen:
            yield "duplicate_member", entry.name, f"again at byte {entry.header}"
        elif place is not None:
            seen.add(entry.name)
            if (entry.size, entry.crc32) != (place.size, place.crc32):
                detail = f"{entry.size} bytes crc32 {entry.crc32:08x}, the index says {place.size}, {place.crc32:08x}"
                yield "flipped_bytes", entry.name, detail
        elif entry.header in by_header:
            seen.add(by_header[entry.header])
            yield "renamed_member", entry.name, f"the index calls it {by_header[entry.header]}"
        elif entry.name.split(".")[0] in keys:
            yield "extra_member", entry.name, "not in the index"
        elif entry.name.endswith(".json"):
            yield "extra_sample", entry.name.split(".")[0], "not in the index"
    for row in rows:
        missing = [m["name"] for m in row["members"] if f"{row['key']}.{m['name']}" not in seen]
        if len(missing) == len(row["members"]):
            yield "missing_sample", row["key"], "in the index, not in the tar"
        else:
            for name in missing:
                yield "missing_member", f"{row['key']}.{name}", "in the index, not in the tar"


def _bounded(tar: str, found: Sequence[_Raw]) -> Iterator[Finding]:
    counts: dict[Code, int] = {}
    for code, member, detail in found:
        counts[code] = counts.get(code, 0) + 1
        if counts[code] <= _SHOWN:
            yield Finding(code=code, where=f"{tar}:{member}" if member else tar, detail=detail)
    for code, count in counts.items():
        if count > _SHOWN:
            yield Finding(code=code, where=tar, detail=f"and {count - _SHOWN} more of these")
