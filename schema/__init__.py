"""The ground floor: taxonomy, records, configurations, errors. Needs only pydantic and pyarrow."""

from __future__ import annotations

from .corpus import CorpusSpec
from .errors import ConfigError, DataError, FailedGate, LockedError, StoppedError, TagmoeError
from .evidence import Evidence
from .limits import Limits
from .reasons import REASONS, STAGES
from .records import Annotation, Frozen, ImageInfo, ImageRef, Pair, Reject, Task, make_uid
from .reply import InvalidReply, parse_reply, reply_schema
from .runs import PART_ROWS, Run, RunInfo
from .taxonomy import DEFAULT_TAXONOMY, TIERS, Rule, Tag, Taxonomy, Tier, Violation, load_taxonomy

__all__ = [
    "DEFAULT_TAXONOMY",
    "PART_ROWS",
    "REASONS",
    "STAGES",
    "TIERS",
    "Annotation",
    "ConfigError",
    "CorpusSpec",
    "DataError",
    "Evidence",
    "FailedGate",
    "Frozen",
    "ImageInfo",
    "ImageRef",
    "InvalidReply",
    "Limits",
    "LockedError",
    "Pair",
    "Reject",
    "Rule",
    "Run",
    "RunInfo",
    "StoppedError",
    "Tag",
    "TagmoeError",
    "Task",
    "Taxonomy",
    "Tier",
    "Violation",
    "load_taxonomy",
    "make_uid",
    "parse_reply",
    "reply_schema",
]
