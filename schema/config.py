"""Configuration: pydantic models filled from defaults, a preset, a TOML file and `--set a.b=c`, in that order."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError

Value = str | int | float | bool | list["Value"] | dict[str, "Value"]


class Config(BaseModel):
    """Base of every configuration: immutable, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def load_config(
    model: type[C],
    *,
    file: Path | None = None,
    sets: Sequence[str] = (),
    preset: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
) -> C:
    """Build a `model`; later sources win: defaults, `preset`, `file` (TOML), `options` (CLI flags), `sets`.

    Entries of `options` that are None are not set.

    Raises:
        ConfigError: unreadable file, malformed `--set`, unknown field or a value out of bounds; one line that names
            the field, the value and what was expected.
    """
    merged: dict[str, object] = {}
    _merge(merged, preset or {})
    if file is not None:
        _merge(merged, _read_toml(file))
    _merge(merged, {key: value for key, value in (options or {}).items() if value is not None})
    for item in sets:
        _merge(merged, _parse_set(item))
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_one_line(error, model)) from error


def resolved_json(config: Config) -> str:
    """The resolved configuration as JSON, as written into every output."""
    return config.model_dump_json(indent=2) + "\n"


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {file} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file} is not TOML: {error}") from error


def _parse_set(item: str) -> dict[str, object]:
    key, equals, text = item.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {item!r}: expected KEY=VALUE, such as --set optimizer.lr=1e-4")
    try:
        value: object = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    nested: object = value
    for name in reversed(key.split(".")):
        nested = {name: nested}
    return cast("dict[str, object]", nested)


def _merge(into: dict[str, object], new: Mapping[str, object]) -> None:
    for key, value in new.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            _merge(cast("dict[str, object]", old), cast("Mapping[str, object]", value))
        elif isinstance(value, Mapping):
            fresh: dict[str, object] = {}
            _merge(fresh, cast("Mapping[str, object]", value))
            into[key] = fresh
        else:
            into[key] = value


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    problems: list[str] = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"])) or model.__name__
        if item["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            problems.append(f"{place} is not a setting (top-level settings: {known})")
        elif item["loc"]:
            problems.append(f"{place} = {item['input']!r}: {item['msg']}")
        else:
            problems.append(item["msg"].removeprefix("Value error, "))
    return "; ".join(problems)
