"""Pictures of classification: which classes are taken for which others, and accuracies by language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from clippo.evaluation.base import Estimate
from clippo.evaluation.figures import DPI, new_figure, picture_of

__all__ = ["draw_accuracies", "draw_confusion"]

MAX_MATRIX = 40  # classes of a matrix that can be read
MAX_PAIRS = 25
MAX_CHARS = 24  # of a name


def draw_confusion(true: np.ndarray, predicted: np.ndarray, names: Mapping[int, str]) -> Image.Image:
    """Draw which classes are taken for which: a matrix, or of many classes the 25 most frequent confusions.

    Args:
        true, predicted: (N,) numbers of classes.
        names: of the classes by number.
    """
    numbers = list(names)
    short = [name if len(name) <= MAX_CHARS else f"{name[: MAX_CHARS - 1]}…" for name in names.values()]
    place = {number: index for index, number in enumerate(numbers)}
    counts = np.zeros((len(numbers), len(numbers)), np.int64)
    np.add.at(counts, ([place[n] for n in true.tolist()], [place[n] for n in predicted.tolist()]), 1)
    if len(numbers) <= MAX_MATRIX:
        side = 3 + 0.3 * len(numbers)
        return drawn(lambda ax: draw_matrix(ax, counts, short), side + 1, side)
    return drawn(lambda ax: draw_pairs(ax, counts, short), 10, 7)


def draw_accuracies(accuracies: Mapping[str, Estimate], chance: Mapping[str, float]) -> Image.Image:
    """Draw a bar for each accuracy in percent, the highest first, with its interval and a mark at chance."""
    order = sorted(accuracies, key=lambda name: -accuracies[name])
    values = [accuracies[name] for name in order]
    errors = [[value - value.low for value in values], [value.high - value for value in values]]

    def draw(ax: Any) -> None:
        ax.bar(range(len(order)), values, yerr=errors, color="tab:blue", ecolor="0.6", error_kw={"lw": 0.8})
        ax.plot(range(len(order)), [chance[name] for name in order], "_", color="tab:red", label="chance")
        ax.set_xticks(range(len(order)), order, rotation=90, fontsize=7)
        ax.set(ylabel="accuracy, %", xlim=(-1, len(order)), ylim=(0, None))
        ax.legend()

    return drawn(draw, 3 + 0.12 * len(order), 4)


def drawn(draw: Callable[[Any], None], width: float, height: float) -> Image.Image:
    """A figure of so many inches, on whose axes a function draws."""
    figure = new_figure(round(width * DPI), round(height * DPI))
    draw(figure.add_subplot())
    return picture_of(figure)


def draw_matrix(ax: Any, counts: np.ndarray, names: list[str]) -> None:
    """A row for each true class, and in it the share of its examples that each predicted class gets."""
    totals = counts.sum(1)
    shares = 100 * counts / np.maximum(totals, 1)[:, None]
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="% of the true class", shrink=0.8)
    ax.set_xticks(range(len(names)), names, rotation=90)
    ax.set_yticks(range(len(names)), [f"{name} ({n})" for name, n in zip(names, totals, strict=True)])
    ax.set(xlabel="predicted", ylabel="true (examples)")
    for row, column in zip(*np.nonzero(shares.round() > 0), strict=True):
        color = "white" if shares[row, column] > 50 else "black"
        text = f"{shares[row, column]:.0f}"
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7)


def draw_pairs(ax: Any, counts: np.ndarray, names: list[str]) -> None:
    """A bar for each of the most frequent pairs of a true class and another one that is predicted."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [(row, column) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    pairs = [pair for pair in pairs if wrong[pair]]
    totals = counts.sum(1)
    ax.barh(range(len(pairs)), [wrong[pair] for pair in pairs], color="tab:blue")
    labels = [f"{names[row]} ({totals[row]}) taken for {names[column]}" for row, column in pairs]
    ax.set_yticks(range(len(pairs)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="examples", title=f"{counts.trace():,} of {counts.sum():,} examples are right")
    ax.xaxis.get_major_locator().set_params(integer=True)
