"""Errors a user can act on: one line that carries the values, what was expected and the way out."""

from __future__ import annotations


class TagmoeError(Exception):
    """Base of every error shown to users as one line; the command line exits with `exit_code`."""

    exit_code: int = 2


class ConfigError(TagmoeError):
    """A configuration, option or combination of options that cannot work; raised before any work starts."""


class DataError(TagmoeError):
    """Input or an earlier output is not what its format promises (changed file, torn part, wrong version)."""


class LockedError(TagmoeError):
    """Another live process already works on this output."""


class StoppedError(TagmoeError):
    """A transient fault (full disk, dead servers) or a signal stopped the run; the same command goes on."""

    exit_code = 3


class FailedGate(TagmoeError):
    """A threshold or check was not met; the message names each."""

    exit_code = 1
