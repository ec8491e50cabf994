"""Names inside a shard set: shards, members, signatures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..schema import DataError

MANIFEST = "manifest.json"
INDEX_MAP = "index.map"
CARD = "README.md"

EXTENSIONS: dict[str, str] = {
    "jpeg": "jpg",
    "jpg": "jpg",
    "mpo": "jpg",
    "png": "png",
    "webp": "webp",
    "bmp": "bmp",
    "tiff": "tiff",
    "tif": "tiff",
    "gif": "gif",
}
"""File extension by the picture format that decoding found."""

PICTURE_EXTENSIONS = frozenset(EXTENSIONS.values())

_SHARD = re.compile(r"^(edit|generation|customization)-([a-z0-9+]+(?:-[a-z0-9+]+)*)-([a-z0-9]+)-(\d{6,})$")
_MEMBER = re.compile(r"^([0-9a-f]{32})\.(json|(?:source|target|ref\d{1,2})\.[a-z]{3,4})$")


def shard_name(task: str, *, signature: str, split: str, number: int) -> str:
    """`{task}-{signature}-{split}-{NNNNNN}`, without `.tar`."""
    return f"{task}-{signature}-{split}-{number:06d}"


def parse_shard_name(name: str) -> tuple[str, str, str, int] | None:
    """Task, signature, split and number of a shard name, None if it is no shard's."""
    match = _SHARD.match(name)
    return (match[1], match[2], match[3], int(match[4])) if match else None


def signature_of(formats: Mapping[str, str]) -> str:
    """Signature of the pictures `{role: extension}`: `src-jpg+tgt-jpg`, `ref2-jpg+tgt-png`, `ref2-jpg-png+tgt-jpg`.

    References that share one format are written once.
    """
    parts: list[str] = []
    if "source" in formats:
        parts.append(f"src-{formats['source']}")
    references = [formats[role] for role in reference_roles(formats)]
    if references:
        kinds = references[:1] if len(set(references)) == 1 else references
        parts.append(f"ref{len(references)}-{'-'.join(kinds)}")
    if "target" in formats:
        parts.append(f"tgt-{formats['target']}")
    return "+".join(parts)


def members_of(signature: str) -> tuple[str, ...]:
    """Member suffixes of one sample in the order they are stored: `json`, then pictures by name.

    Raises:
        DataError: the text is no signature.
    """
    suffixes: list[str] = []
    for part in signature.split("+"):
        head, *kinds = part.split("-")
        if head == "src" and len(kinds) == 1:
            suffixes.append(f"source.{kinds[0]}")
        elif head == "tgt" and len(kinds) == 1:
            suffixes.append(f"target.{kinds[0]}")
        elif re.fullmatch(r"ref\d{1,2}", head) and len(kinds) in (1, int(head[3:])):
            count = int(head[3:])
            suffixes += [f"ref{i}.{kinds[i if len(kinds) > 1 else 0]}" for i in range(count)]
        else:
            raise DataError(
                f"{signature!r} is no signature: expected parts such as src-jpg, ref2-png, tgt-jpg joined by +"
            )
    return ("json", *sorted(suffixes))


def parse_member(name: str) -> tuple[str, str] | None:
    """Key and suffix (`json`, `source.jpg`, ...) of a member name; None for any other name."""
    match = _MEMBER.match(name)
    return (match[1], match[2]) if match else None


def reference_roles(roles: Mapping[str, object]) -> list[str]:
    """The reference roles among `roles` in numeric order."""
    return sorted((role for role in roles if role.startswith("ref")), key=lambda role: int(role[3:]))


def tar_path(root: Path, name: str) -> Path:
    """The tar of shard `name`."""
    return root / f"{name}.tar"


def index_name(name: str) -> str:
    """The index of shard `name`, relative to the set."""
    return f"index/{name}.parquet"


def overlay_name(overlay: str, *, shard: str) -> str:
    """The tags of overlay `overlay` for one shard, relative to the set."""
    return f"tags/{overlay}/{shard}.parquet"


def snapshot_name(number: int) -> str:
    """The immutable copy of snapshot `number`, relative to the set."""
    return f"snapshots/{number:06d}.json"
