"""Why a record is rejected: a closed set, so that reports can count and users can filter and retry."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["read", "decode", "annotate", "shard"]

Reason = Literal[
    # read: the record itself
    "bad_record",
    "missing_field",
    "bad_task",
    "duplicate_id",
    "text_too_long",
    "empty_instruction",
    "too_many_references",
    # read: its images
    "path_outside_root",
    "missing_image",
    "image_too_large_bytes",
    "unreadable_file",
    # decode
    "not_an_image",
    "unsupported_format",
    "truncated_image",
    "image_too_many_pixels",
    "image_too_small",
    "animated_image",
    "corrupt_image",
    # annotate
    "invalid_reply",
    "reply_too_long",
    "rule_violation",
    "refused_by_endpoint",
    "worker_crashed",
    "annotator_failed",
    "ambiguous_migration",
    # shard
    "image_changed",
    "image_missing",
    "filtered",
    "duplicate_across_splits",
]

REASONS: tuple[str, ...] = get_args(Reason)
STAGES: tuple[str, ...] = get_args(Stage)
