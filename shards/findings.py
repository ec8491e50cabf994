"""What `tagmoe verify` can find: a closed set of codes, each with a place and a detail."""

from __future__ import annotations

from typing import Literal, get_args

from ..schema import Frozen

TarCode = Literal[
    "torn_tar",
    "changed_tar",
    "flipped_bytes",
    "missing_sample",
    "extra_sample",
    "missing_member",
    "extra_member",
    "renamed_member",
    "duplicate_member",
    "unsafe_name",
    "special_member",
    "forbidden_member",
    "oversized_member",
]
"""What is wrong with the bytes of one tar."""

SetCode = Literal[
    # the set
    "bad_manifest",
    "bad_snapshot",
    "wrong_version",
    "missing_shard",
    "extra_shard",
    "extra_file",
    "changed_file",
    "swapped_shard",
    "unfinished_build",
    # what is derived
    "missing_index",
    "bad_index",
    "stale_index",
    "bad_map",
    "bad_overlay",
    "bad_tensors",
]

Code = TarCode | SetCode

TAR_CODES: frozenset[str] = frozenset(get_args(TarCode))


class Finding(Frozen):
    """One thing that is not as it should be."""

    code: Code
    where: str
    """File relative to the set, with `:MEMBER` or `:KEY` where one is meant."""
    detail: str

    def __str__(self) -> str:
        return f"{self.code} {self.where}: {self.detail}"
