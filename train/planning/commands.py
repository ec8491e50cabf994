"""The command `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ...schema.configs.train import TrainConfig
    from .plan import Layout, Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    config: Annotated[str, typer.Argument(help="A preset, a TOML file with settings, or RUN/config.json.")],
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all.")],
    gpu_memory: Annotated[float, typer.Option(help="Memory of one GPU, GiB.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Shard groups prefer to stay within a node.")] = 8,
    conditions: Annotated[int, typer.Option(min=0, help="Condition images of a sample.")] = 1,
    text_tokens: Annotated[int | None, typer.Option(min=1, help="Text tokens; default the most allowed.")] = None,
    headroom: Annotated[float, typer.Option(help="Share of memory left to the runtime and fragmentation.")] = 0.08,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Change one setting: KEY=VALUE.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say what a configuration needs: parameters, memory by part, FLOPs, a layout; exit 1 if it does not fit.

    Example: tagmoe plan qwen-image --gpus 64 --gpu-memory 80
    """
    from ...shards.console import print_json, say
    from .plan import make_plan

    found = make_plan(
        read_config(config, sets=sets or []),
        gpus=gpus,
        gpu_memory=gpu_memory,
        gpus_per_node=gpus_per_node,
        conditions=conditions,
        text_tokens=text_tokens,
        headroom=headroom,
    )
    if json:
        print_json(found.as_json())
    else:
        for line in lines(found):
            say(line)
    if not found.fits:
        raise typer.Exit(1)


def read_config(name: str, *, sets: list[str]) -> TrainConfig:
    """The configuration a preset, a TOML file (on its `preset`) or a resolved config.json stands for.

    Raises:
        ConfigError: none of these, or what `load_config` raises.
    """
    import tomllib

    from ...schema import ConfigError
    from ...schema.config import load_config
    from ...schema.configs.train import PRESETS, TrainConfig

    path = Path(name)
    if name in PRESETS:
        return load_config(TrainConfig, preset=PRESETS[name], sets=sets)
    if not path.is_file():
        raise ConfigError(f"{name}: expected a preset ({', '.join(PRESETS)}), a TOML file or a run's config.json")
    if path.suffix == ".json":
        try:
            resolved = TrainConfig.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{name} is no configuration of `tagmoe train`: {error}") from error
        return load_config(TrainConfig, preset=resolved.model_dump(mode="json"), sets=sets)
    try:
        preset = tomllib.loads(path.read_text("utf-8")).get("preset", "qwen-image")
    except ValueError as error:
        raise ConfigError(f"configuration file {name} is not TOML: {error}") from error
    if preset not in PRESETS:
        raise ConfigError(f"{name}: preset = {preset!r}, expected one of {', '.join(PRESETS)}")
    return load_config(TrainConfig, preset=PRESETS[preset], file=path, sets=sets)


def lines(plan: Plan) -> list[str]:
    """The plan for people."""
    sizes, tokens = plan.sizes, plan.tokens
    text = [
        f"{plan.preset} on {plan.gpus} GPUs",
        f"parameters   {_count(sizes.total)} in all, {_count(sizes.active)} active for a token, "
        f"{_count(sizes.trainable)} trained",
        f"a sample     {tokens.target} target + {tokens.condition} condition + {tokens.text} text tokens; "
        f"{plan.samples} samples a step",
        f"compute      {plan.step_flops:.3g} model FLOPs a step, {plan.step_flops / plan.gpus:.3g} on each GPU; "
        f"at 40 % of 989 TFLOP/s {plan.step_flops / plan.gpus / (0.4 * 989e12):.3g} s",
        f"exchange     {_gib(plan.gathered_bytes)} a step on each GPU within the shard group",
        "",
        *_memory_lines(plan.layout),
        "",
        f"{'fits' if plan.fits else 'does not fit'}: {_gib(plan.layout.memory.peak)} of {_gib(plan.budget)} usable",
    ]
    if plan.suggestion is None:
        text.append(
            "no layout of these GPUs fits: use more GPUs, --set engine.train=moe, accumulation=1 or a smaller data.area"
        )
    else:
        best = plan.suggestion
        sets = " ".join(f"--set {item}" for item in best.settings())
        text.append(
            f"suggested: {best.replicas} replicas of {best.shard_group} GPUs, {_gib(best.memory.peak)} a GPU: {sets}"
        )
    return text


def _memory_lines(layout: Layout) -> list[str]:
    memory = layout.memory
    on = "on" if layout.activation_checkpointing else "off"
    rows = [
        ("weights", memory.weights),
        ("gathered blocks", memory.gathered),
        ("gradients", memory.gradients),
        ("whole gradients", memory.whole_gradients),
        ("optimizer", memory.optimizer),
        ("moving average", memory.ema),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
    ]
    head = f"memory of a GPU, sharded over {layout.shard_group}, activation checkpointing {on}"
    return [head, *(f"  {name:<16} {_gib(size):>11}" for name, size in rows if size)]


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 28 else f"{size / (1 << 20):.2f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e8 else f"{number / 1e6:.2f} M"
