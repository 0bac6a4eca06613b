"""Measure a model by the evaluators of its run, or of a recipe."""

from __future__ import annotations

from pathlib import Path

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def evaluate(source: Path, /, *, recipe: str | None = None, out: Path | None = None) -> None:
    """Measure a model by the evaluators of its run, or of a recipe.

    Prints a table, and writes results.json and pictures:

        clippo evaluate runs/emoji
        clippo evaluate runs/emoji/checkpoints/step-003000 --recipe emoji --out results

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, or a .npz of big_vision.
        recipe: Take the evaluators of this recipe; for a run, its own by default.
        out: Folder for results.json and the pictures; for a run, its own by default.
    """
    from clippo.evaluation import suite
    from clippo.recipes import find_recipe
    from clippo.training.run_folder import RunFolder, load_model, with_renderer

    run = RunFolder(source)
    is_run = run.checkpoints.is_dir()
    if recipe is None and not is_run:
        raise UserError(f"{source} is not a run and has no evaluators of its own: name a --recipe")
    if out is None and not is_run:
        raise UserError(f"{source} is not a run: name a folder to write to, --out")
    config = run.config() if recipe is None else find_recipe(recipe)()
    model = with_renderer(load_model(source))
    evaluators = suite.build(config.evaluators, config.data, config.transform, model.config.image_size)
    rows = suite.evaluate(model, evaluators)
    print(suite.table(rows))
    files = suite.report(out or run.path, rows, model, evaluators, source=source.name)
    print(f"\nwritten to {', '.join(map(str, files))}")


def main(arguments: list[str]) -> None:
    call(evaluate, arguments, prog="clippo evaluate")
