"""What a checkpoint keeps of a stream: one position, and a fingerprint of everything the order follows from."""

from __future__ import annotations

import hashlib
from typing import TypedDict

from ..schema import ConfigError
from ..schema.configs.shards import StreamConfig

STATE_VERSION = 1


class StreamState(TypedDict):
    """Plain data for a checkpoint; does not depend on the number of ranks or workers."""

    version: int
    position: int
    """Batches of the global sequence that were consumed."""
    epoch: int
    """For people; follows from the position."""
    fingerprint: dict[str, str]


def fingerprint(config: StreamConfig, *, content_hash: str, overlay_hash: str) -> dict[str, str]:
    """Hashes by the name of what they cover."""
    selection = config.model_dump_json(
        include={"split", "tasks", "corpora", "require_tags", "exclude_tags", "weights"}, exclude_none=True
    )
    batching = config.model_dump_json(include={"batch_size", "ragged", "shuffle", "block_samples", "window_blocks"})
    return {
        "snapshot": content_hash[:16],
        "overlay": overlay_hash[:16],
        "selection": hashlib.sha256(selection.encode()).hexdigest()[:16],
        "batching": hashlib.sha256(batching.encode()).hexdigest()[:16],
        "seed": str(config.seed),
    }


def check_state(state: StreamState, *, expected: dict[str, str]) -> int:
    """The position to go on from.

    Raises:
        ConfigError: the state belongs to another order; names what differs.
    """
    if state.get("version") != STATE_VERSION:
        raise ConfigError(f"stream state has version {state.get('version')!r}, this tagmoe reads {STATE_VERSION}")
    found = state["fingerprint"]
    changed = [name for name in expected if found.get(name) != expected[name]]
    if changed:
        raise ConfigError(
            f"cannot resume the stream: {', '.join(changed)} changed since the state was saved. Restore the old "
            "settings (an older snapshot is chosen with snapshot=N), or start at position 0"
        )
    if state["position"] < 0:
        raise ConfigError(f"stream state has position {state['position']}, expected 0 or more")
    return state["position"]
