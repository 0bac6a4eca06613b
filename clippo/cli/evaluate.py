"""Measure models by the evaluators of their runs, of a recipe or of a suite."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clippo.arguments import call
from clippo.errors import UserError

if TYPE_CHECKING:
    from clippo.data.base import SourceConfig
    from clippo.data.transform import TransformConfig
    from clippo.evaluation.base import EvaluatorConfig

__all__ = ["main"]


def evaluate(
    sources: tuple[str, ...],
    /,
    *,
    suite: str | None = None,
    root: Path = Path("data"),
    recipe: str | None = None,
    data: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure models by the evaluators of their runs, of a recipe or of a suite.

    Prints a table, and writes results.json, summary.md and pictures. Of several runs, which differ in their
    seeds, it also prints the mean and its interval:

        clippo evaluate runs/emoji
        clippo evaluate runs/emoji --suite miniature
        clippo evaluate runs/seed-0 runs/seed-1 runs/seed-2 --suite miniature --out results
        clippo evaluate clippo_b16_yfcc100m.npz --suite paper --root /data --out results
        clippo evaluate runs/photos --data folder:others --out results

    Args:
        sources: Runs of `clippo train`, folders of `save_pretrained`, .npz files of big_vision, or
            hf://owner/name.
        suite: Take the evaluators of this suite: miniature or claims, of data that `clippo data fetch` makes,
            or paper, of the data sets of the paper. Those whose data are not there are listed and left out.
        root: Folder of the data sets of the suite paper; see docs/evaluation.md.
        recipe: Take the evaluators of this recipe; for a run, its own by default.
        data: Measure on this source, such as folder:photos, and not on the data of the run or the recipe; a
            suite brings its own.
        out: Folder for the results; by default that of the run, or its folder of the name of the suite.
    """
    import torch

    from clippo.data.transform import SquashConfig
    from clippo.evaluation import suite as suites
    from clippo.evaluation.summary import markdown, mean_of_runs
    from clippo.results import provenance, write_results
    from clippo.training.run_folder import load_model, with_renderer

    if not sources:
        raise UserError("clippo evaluate needs a model, such as runs/emoji")
    if suite is not None and recipe is not None:
        raise UserError("--suite and --recipe do not go together")
    if suite is not None and data is not None:
        raise UserError("--suite and --data do not go together: a suite brings its own data")
    asked = [asked_of(source, suite, root, recipe, data) for source in sources]
    folders = [folder_of(source, suite, out, alone=len(sources) == 1) for source in sources]
    if len(set(folders)) < len(folders):
        raise UserError(f"two models would be written to one folder, {', '.join(map(str, folders))}")
    found = []
    for source, folder, (configs, measured_data, transform) in zip(sources, folders, asked, strict=True):
        model = with_renderer(load_model(source)).to("cuda" if torch.cuda.is_available() else "cpu")
        measured = suites.measure(
            model, configs, measured_data, transform or SquashConfig(resize=model.config.resize), folder,
            title=f"{source}: {suite or recipe or 'evaluators of the run'}",
            skip_missing=suite is not None, source=Path(source).name, suite=suite,
        )  # fmt: skip
        print(suites.table(measured.rows))
        for name, reason in measured.missing.items():
            print(f"left out: {name}: {reason}")
        if measured.files:
            print(f"\nwritten to {', '.join(map(str, measured.files))}")
        found.append(measured.headlines)
    if len(found) > 1:
        means = mean_of_runs(found)
        print(f"\n{markdown(means)}")
        if out is not None:
            write_results(out / suites.RESULTS_FILE, provenance(sources=[*sources], suite=suite), means)
            print(f"\nwritten to {out / suites.RESULTS_FILE}")


def folder_of(source: str, suite: str | None, out: Path | None, *, alone: bool) -> Path:
    """The folder for the results of a model.

    Raises:
        UserError: it has none of its own, and none was named.
    """
    from clippo.training.run_folder import RunFolder

    run = RunFolder(source)
    if out is not None:
        return out if alone else out / run.path.name
    if not run.checkpoints.is_dir():
        raise UserError(f"{source} is not a run: name a folder to write to, --out")
    return run.path / suite if suite else run.path


Asked = tuple["Mapping[str, EvaluatorConfig]", "SourceConfig", "TransformConfig | None"]


def asked_of(source: str, suite: str | None, root: Path, recipe: str | None, data: str | None) -> Asked:
    """The evaluators for a model, the data, and the transform of its run, or else of the recipe, if any."""
    from clippo.data.dictionary import DictionaryConfig
    from clippo.data.spec import source_config
    from clippo.evaluation.suites import find_suite
    from clippo.recipes import find_recipe
    from clippo.training.run_folder import RunFolder

    run = RunFolder(source)
    config = run.config() if run.checkpoints.is_dir() else None
    other = None if data is None else source_config(data)
    if suite is not None:
        own = DictionaryConfig() if config is None else config.data
        return find_suite(suite, root), own, None if config is None else config.transform
    if recipe is not None:
        function = find_recipe(recipe)
        needs_data = "data" in inspect.signature(function).parameters
        if needs_data and other is None:
            raise UserError(f"the recipe {recipe} needs --data, such as folder:photos")
        config = function(other) if needs_data else function()
    if config is None:
        raise UserError(
            f"{source} is not a run and has no evaluators of its own: name a --recipe or a --suite"
        )
    return config.evaluators, other or config.data, config.transform


def main(arguments: list[str]) -> None:
    call(evaluate, arguments, prog="clippo evaluate")
