"""A picture or a record that cannot be used, as an exception that carries the reject's three fields."""

from __future__ import annotations

from ...schema.reasons import Reason, Stage


class Rejected(Exception):
    """Base: where it failed, why (closed set), and the detail for a person."""

    def __init__(self, stage: Stage, reason: Reason, detail: str) -> None:
        super().__init__(stage, reason, detail)
        self.stage: Stage = stage
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class ImageRejected(Rejected):
    """A picture that cannot be read or decoded safely."""


class RecordRejected(Rejected):
    """A record whose fields do not make a Pair."""
