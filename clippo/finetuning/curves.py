"""Learning curves of a sweep as a picture: the loss, and the metric by which is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from clippo.evaluation.figures import new_figure, picture_of
from clippo.training.history import History, read_histories
from clippo.training.run_folder import RunFolder

__all__ = ["draw_curves"]

SIZE_PX = (1000, 400)


def draw_curves(runs: Mapping[float, Sequence[RunFolder]], task: str, metric: str) -> Image.Image:
    """Draw the loss in training and the metric on the examples for choosing, over the steps.

    Args:
        runs: by their learning rate, which has a colour.
        task: its name.
        metric: the name of the main one.
    """
    figure = new_figure(*SIZE_PX)
    loss, dev = figure.subplots(1, 2)
    for number, (rate, folders) in enumerate(runs.items()):
        for seed, history in enumerate(read_histories(folders)):
            label = f"learning rate {rate:g}" if seed == 0 else None
            style = {"color": f"C{number % 10}", "alpha": 0.8, "label": label}
            loss.plot(*history.series("loss"), linewidth=1, **style)
            dev.plot(*history.series(f"dev/{metric}"), marker="o", markersize=3, **style)
    guessing = guessing_of([h for own in runs.values() for h in read_histories(own)], metric)
    if guessing is not None:
        dev.axhline(guessing, color="0.5", linestyle="--", linewidth=1, label="always the same prediction")
    loss.set(title=f"{task}: loss of a batch", xlabel="step")
    dev.set(title=f"{task}: dev {metric}", xlabel="step")
    for axes in (loss, dev):
        axes.grid(alpha=0.25)
    dev.legend(fontsize=8)
    return picture_of(figure)


def guessing_of(histories: Sequence[History], metric: str) -> float | None:
    """The metric of guessing on the examples for choosing; None where nothing was measured yet."""
    found = [value for history in histories for value in history.series(f"dev/chance/{metric}")[1]]
    return found[0] if found else None
