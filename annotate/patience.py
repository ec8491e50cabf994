"""Transient faults are waited for: the run pauses, then stops, and never turns them into rejects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..schema import StoppedError
from ..shards.console import err

T = TypeVar("T")

_PAUSE_SECONDS = 2.0


def patiently(action: Callable[[], T], *, seconds: float) -> T:
    """Run `action`, again every two seconds while it raises StoppedError, for at most `seconds`.

    Raises:
        StoppedError: the last one, once the patience is over.
    """
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            return action()
        except StoppedError as error:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise
            if not told:
                err.print(f"paused for up to {seconds:.0f} s: {error}", markup=False)
                told = True
            time.sleep(_PAUSE_SECONDS)
