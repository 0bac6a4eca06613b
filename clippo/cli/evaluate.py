"""Measure a model by the evaluators of its run, or of a recipe."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def evaluate(
    source: Path, /, *, recipe: str | None = None, data: str | None = None, out: Path | None = None
) -> None:
    """Measure a model by the evaluators of its run, or of a recipe.

    Prints a table, and writes results.json and pictures:

        clippo evaluate runs/emoji
        clippo evaluate runs/emoji/checkpoints/step-003000 --recipe emoji --out results
        clippo evaluate runs/photos --data folder:others --out results

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, or a .npz of big_vision.
        recipe: Take the evaluators of this recipe; for a run, its own by default.
        data: Measure on this source, such as folder:photos, and not on the data of the run or the recipe.
        out: Folder for results.json and the pictures; for a run, its own by default.
    """
    from clippo.data.spec import source_config
    from clippo.evaluation import suite
    from clippo.recipes import find_recipe
    from clippo.training.run_folder import RunFolder, load_model, with_renderer

    run = RunFolder(source)
    is_run = run.checkpoints.is_dir()
    if recipe is None and not is_run:
        raise UserError(f"{source} is not a run and has no evaluators of its own: name a --recipe")
    if out is None and not is_run:
        raise UserError(f"{source} is not a run: name a folder to write to, --out")
    if recipe is None:
        config = run.config()
    else:
        function = find_recipe(recipe)
        needs_data = "data" in inspect.signature(function).parameters
        if needs_data and data is None:
            raise UserError(f"the recipe {recipe} needs --data, such as folder:photos")
        config = function(source_config(str(data))) if needs_data else function()
    if data is not None:
        config = replace(config, data=source_config(data))
    model = with_renderer(load_model(source))
    evaluators = suite.build(config.evaluators, config.data, config.transform, model.config.image_size)
    rows = suite.evaluate(model, evaluators)
    print(suite.table(rows))
    files = suite.report(out or run.path, rows, model, evaluators, source=source.name)
    print(f"\nwritten to {', '.join(map(str, files))}")


def main(arguments: list[str]) -> None:
    call(evaluate, arguments, prog="clippo evaluate")
