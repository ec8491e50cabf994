"""Configuration: later sources win, and a mistake is one line that names the field."""

from pathlib import Path

import pytest
from pydantic import Field
from tagmoe.schema import ConfigError
from tagmoe.schema.config import Config, load_config, resolved_json


class Inner(Config):
    lr: float = Field(default=1e-3, gt=0)
    name: str = "adam"
    sizes: list[int] = []


class Outer(Config):
    steps: int = 10
    inner: Inner = Inner()


def test_later_sources_win(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text("steps = 20\n[inner]\nlr = 0.5\nname = 'sgd'\n")
    config = load_config(
        Outer,
        preset={"steps": 1, "inner": {"lr": 0.1, "sizes": [1]}},
        file=file,
        options={"steps": 30, "inner": None},
        sets=["inner.lr=2e-4", "inner.sizes=[3, 4]"],
    )
    assert config == Outer(steps=30, inner=Inner(lr=2e-4, name="sgd", sizes=[3, 4]))
    assert Outer.model_validate_json(resolved_json(config)) == config


def test_set_takes_bare_words():
    assert load_config(Outer, sets=["inner.name=lion"]).inner.name == "lion"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["inner.lr=-1"], "inner.lr = -1"),
        (["inner.speed=1"], "inner.speed is not a setting"),
        (["steps"], "expected KEY=VALUE"),
        (["inner..lr=1"], "expected KEY=VALUE"),
        (["steps=many"], "steps = 'many'"),
        (["inner=3"], "inner = 3"),
    ],
)
def test_a_mistake_names_the_field(sets, says):
    with pytest.raises(ConfigError) as error:
        load_config(Outer, sets=sets)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Outer, file=tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(Outer, file=tmp_path / "bad.toml")
