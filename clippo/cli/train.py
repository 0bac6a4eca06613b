"""Train a model by a recipe, then measure it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from clippo.arguments import call
from clippo.data.base import SourceConfig
from clippo.data.made_up import MadeUpConfig
from clippo.data.spec import data_config
from clippo.errors import UserError
from clippo.model.configs import choices, kind_of
from clippo.recipes import find_recipe, recipe_names
from clippo.training.config import TrainConfig

__all__ = ["main"]

USAGE = """usage: clippo train RECIPE [--out FOLDER] [--resume] [--field value ...]

Train a model by a recipe, then measure it. Under torchrun every process takes its share of each batch.

    clippo train own --data folder:photos --out runs/photos       pictures with texts of one's own
    clippo train own --data folder:photos=3 --data shards=1       two sources, three parts of one and one
    clippo train emoji --out runs/mine --seed 1
    clippo train emoji --model.width 192 --model.mlp-dim 768 --out runs/wide
    clippo train emoji --renderer paragraph --renderer.font-size 14 --out runs/shaped
    clippo train emoji --loss sigmoid --out runs/sigmoid
    clippo train emoji --model.text bytes --model.num-towers 2 --out runs/two-towers
    torchrun --nproc-per-node 8 -m clippo train emoji --batch-size 2048
    clippo train yfcc100m --dry-run 0                             what it needs, on made-up data
    clippo train emoji --out runs/mine --resume                   as it was begun, from its config.json
    clippo train emoji --out runs/mine --resume --steps 6000      the same, but longer

The folder then holds config.json, metrics.jsonl, the newest checkpoint (safetensors weights and the state to
resume from), results.json and pictures. `clippo train RECIPE --help` lists all fields of a recipe. Parts that
are chosen by name come before their own fields:
"""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        if arguments[:1] not in (["-h"], ["--help"]):
            raise UserError(f"clippo train needs a recipe: {', '.join(recipe_names())}")
        print(USAGE + "\n" + described_choices(find_recipe("emoji")()) + described_recipes())
        return
    name, *rest = arguments
    begun_config = begun(rest, Path("runs") / name)
    recipe, rest = choose(begun_config, rest) if begun_config else choose(*new(name, rest))

    def train(
        *,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe,
        out: Path = Path("runs") / name,
        resume: tyro.conf.FlagCreatePairsOff[bool] = False,
        dry_run: int | None = None,
    ) -> None:
        """Train by a recipe.

        Args:
            config: the run.
            out: folder of the run.
            resume: continue the run in that folder with its own configuration, of which arguments may change
                the length and the intervals; or start it if there is none yet.
            dry_run: print what the run needs, and take so many steps on made-up data; 0 computes nothing.
        """
        from clippo.training.dry_run import dry_run as run_dry
        from clippo.training.trainer import train

        if dry_run is not None:
            run_dry(config, dry_run)
            return

        train(config, out, resume=resume)

    call(train, rest, prog=f"clippo train {name}", description=inspect.getdoc(find_recipe(name)))


def new(name: str, arguments: list[str]) -> tuple[TrainConfig, list[str]]:
    """The configuration of a recipe, and the arguments that it has not taken.

    A recipe that depends on the data, such as `own`, takes --data and other arguments of its own itself.
    """
    function: Callable[..., TrainConfig] = find_recipe(name)
    parameters = inspect.signature(function).parameters
    taken: dict[str, list[str]] = {}
    rest = [part for argument in arguments for part in halves(argument)]
    for parameter in parameters:
        flag = f"--{parameter.replace('_', '-')}"
        while flag in rest[:-1]:
            at = rest.index(flag)
            taken.setdefault(parameter, []).append(rest[at + 1])
            del rest[at : at + 2]
    values = {name: value_of(name, given) for name, given in taken.items()}
    if "data" in parameters:
        is_dry = any(argument in ("-h", "--help", "--dry-run") for argument in rest)
        if "data" not in values and not is_dry:
            raise UserError(
                f"clippo train {name} needs --data, such as folder:photos; see clippo data --help"
            )
        values.setdefault("data", MadeUpConfig())
    return function(**values), rest


def value_of(name: str, given: Sequence[str]) -> Any:
    """The value of an argument of a recipe: sources may be given several times, of others the last counts.

    Raises:
        UserError: it is not such a value.
    """
    if name in ("data", "sentences"):
        return data_config(given)
    if name != "sentence_share":
        return given[-1]
    try:
        return float(given[-1])
    except ValueError:
        raise UserError(f"--sentence-share must be a number, got {given[-1]!r}") from None


def begun(arguments: list[str], out: Path) -> TrainConfig | None:
    """The configuration of the run to resume, None where a new one begins."""
    from clippo.training.run_folder import RunFolder

    given = [part for argument in arguments for part in halves(argument)]
    if "--out" in given[:-1]:
        out = Path(given[given.index("--out") + 1])
    run = RunFolder(out)
    return run.config() if "--resume" in given and run.config_file.is_file() else None


def choose(config: TrainConfig, arguments: list[str]) -> tuple[TrainConfig, list[str]]:
    """Apply the arguments that choose a part by its name, such as `--loss sigmoid`, or a source of data.

    Returns:
        The configuration with these parts, each with its default fields, and the other arguments.

    Raises:
        UserError: there is no such part.
    """
    rest: list[str] = []
    specs: list[str] = []  # of the sources of data, each after its own --data
    given = [part for argument in arguments for part in halves(argument)]
    while given:
        argument = given.pop(0)
        path = argument.removeprefix("--").replace("-", "_").split(".")
        part = part_at(config, path) if argument.startswith("--") else None
        kind = None if part is None else kind_of(type(part))
        if kind is None:
            rest.append(argument)
            continue
        name = given.pop(0) if given else ""
        if kind is SourceConfig:
            specs.append(name)
            config = replaced(config, path, data_config(specs))
            continue
        known = choices(kind)
        if name not in known:
            raise UserError(f"{argument} must be one of {', '.join(known)}; got {name!r}")
        config = replaced(config, path, known[name]())
    return config, rest


def halves(argument: str) -> list[str]:
    """`--a=b` -> `--a`, `b`."""
    return argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument]


def part_at(config: Any, path: list[str]) -> Any:
    """The part of a configuration at a path of fields, None if there is none."""
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return config


def replaced(config: Any, path: list[str], part: Any) -> Any:
    """A configuration with another part at a path of fields."""
    name, *rest = path
    new = replaced(part_at(config, [name]), rest, part) if rest else part
    return {**config, name: new} if isinstance(config, Mapping) else replace(config, **{name: new})


def described_choices(config: TrainConfig) -> str:
    """A line for each part that is chosen by name."""
    lines = []
    for path in ("data", "transform", "model.text", "renderer", "loss", "optimizer", "schedule"):
        kind = kind_of(type(part_at(config, path.split("."))))
        assert kind is not None
        lines.append(f"    --{path:<14}{', '.join(choices(kind))}\n")
    return "".join(lines)


def described_recipes() -> str:
    """A line for each recipe."""
    summaries = {name: (find_recipe(name).__doc__ or "").partition("\n")[0] for name in recipe_names()}
    return "\nRecipes:\n\n" + "\n".join(f"    {name:<16}{text}" for name, text in summaries.items())
