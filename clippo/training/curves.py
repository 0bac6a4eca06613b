"""Learning curves of runs as a picture."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clippo.errors import UserError
from clippo.files import atomic_path
from clippo.training.history import History, headlines, read_histories
from clippo.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

SIZE_PX = (1200, 800)
DPI = 100
SMOOTHED_SHARE = 0.05  # of the lines, over which a mean is taken
MAX_NAMED = 20  # runs in the legend
EVALUATOR_STYLES = (("-", "o"), ("--", "s"), (":", "^"))  # line and marker
Line = tuple[np.ndarray, np.ndarray]  # (N,) steps and (N,) values, float64


def draw(runs: Sequence[RunFolder], file: Path) -> None:
    """Draw the learning curves of one or more runs into a picture file of 1200 x 800 px.

    There are six panels over the steps: loss, evaluation, gradient norm, learning rate, pairs/s, and the
    share of the time that training waits for data. Each run has a colour. Lines that are damaged, values that
    are not finite and files that are missing are left out. The ending of the file names its format.

    Raises:
        UserError: the picture cannot be written.
    """
    picture = figure_of(read_histories(runs))
    try:
        with atomic_path(file) as unfinished:
            picture.save(unfinished)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the picture {file}: {error}") from error


def figure_of(histories: Sequence[History]) -> Image.Image:
    """Draw the curves of `draw`."""
    # Only here, because it takes half a second. The object API has no state, and needs no window.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (SIZE_PX[0] / DPI, SIZE_PX[1] / DPI)
    figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    colours = colours_of(len(histories))
    panels: list[Callable[[Axes, Sequence[History], Sequence[Any]], None]] = [
        draw_loss, draw_evaluations, draw_gradient_norm, draw_learning_rate, draw_speed, draw_data_share,
    ]  # fmt: skip
    for ax, panel in zip(axes.flat, panels, strict=True):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        panel(ax, histories, colours)
        finish(ax, histories)
    add_legend(figure, histories, colours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters in the names of runs that the font lacks
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_loss(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    ax.set_title("Loss")
    draw_smoothed(ax, [line_of(history, "loss") for history in histories], colours)
    total = 0
    for history, colour in zip(histories, colours, strict=True):
        if skipped := history.skipped():
            total += sum(count for _, count in skipped)
            steps = [step for step, _ in skipped]
            at_top = ax.get_xaxis_transform()  # steps, and the height of the panel
            ax.plot(steps, [0.985] * len(steps), "x", color=colour, transform=at_top, clip_on=False)
    if total:
        ax.set_title(f"Loss (x: {total:,} skipped steps)")


def draw_gradient_norm(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    ax.set_title("Gradient norm, before clipping")
    draw_smoothed(ax, [line_of(history, "grad_norm") for history in histories], colours)
    values = drawn(ax)
    values = values[values > 0]
    if len(values) and values.max() > 30 * values.min():
        ax.set_yscale("log")


def draw_learning_rate(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    ax.set_title("Learning rate")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    for history, colour in zip(histories, colours, strict=True):
        draw_line(ax, line_of(history, "learning_rate"), color=colour)


def draw_speed(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    ax.set_title("Speed (pairs/s)")
    draw_smoothed(ax, [line_of(history, "pairs_per_s") for history in histories], colours)
    ax.set_ylim(0, 1.1 * highest(ax))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def draw_data_share(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    ax.set_title("Waiting for data (% of the time)")
    draw_smoothed(ax, [data_share_of(history) for history in histories], colours)
    ax.set_ylim(0, 1.1 * highest(ax))


def highest(ax: Axes) -> float:
    """The highest value in a panel, at least 1."""
    return max(1.0, float(drawn(ax).max(initial=0)))


def drawn(ax: Axes) -> np.ndarray:
    """(N,) all values in a panel."""
    values = [np.asarray(line.get_ydata(), np.float64) for line in ax.lines]
    return np.concatenate([*values, np.empty(0)])


def data_share_of(history: History) -> Line:
    """The percentage of the time of a step that is spent waiting for data."""
    lines = [line for line in history.metrics if line.get("step_time", 0) > 0 and "data_time" in line]
    shares = [100 * line["data_time"] / line["step_time"] for line in lines]
    return finite([line["step"] for line in lines], shares)


def draw_evaluations(ax: Axes, histories: Sequence[History], colours: Sequence[Any]) -> None:
    """Of one run three evaluators, of several the first two, or one: more lines cannot be told apart."""
    names = headlines(histories)[: 3 if len(histories) == 1 else 2 if len(histories) <= 4 else 1]
    ax.set_title("Evaluation")
    if not names:
        return
    metrics = {name.partition("/")[2] for name in names}
    is_one = len(metrics) == 1
    if is_one:
        ax.set_title(f"Evaluation: {readable(*metrics)}", fontsize="medium")
    for name, (line, marker) in zip(names, EVALUATOR_STYLES, strict=False):
        style: dict[str, Any] = {"linestyle": line, "marker": marker, "markersize": 4}
        ax.plot([], [], **style, color="0.3", label=readable(name.partition("/")[0] if is_one else name))
        for history, colour in zip(histories, colours, strict=True):
            ax.plot(*line_of(history, name), **style, color=colour)
    chance = chance_of(histories, names[0])
    if chance is not None:
        evaluator = readable(names[0].partition("/")[0])
        ax.axhline(chance, color="0.6", linewidth=1, zorder=0, label=f"chance, {evaluator}")
    if ax.get_ylim()[0] > 0:
        ax.set_ylim(bottom=0)
    ax.legend(fontsize="small", framealpha=0.7)


def chance_of(histories: Sequence[History], name: str) -> float | None:
    """What guessing reaches of an evaluation metric, where the evaluator says so."""
    evaluator, _, metric = name.partition("/")
    chance = f"{evaluator}/chance/{metric.rpartition('/')[2]}"
    values = [value for history in histories for value in line_of(history, chance)[1].tolist()]
    return values[-1] if values else None


def readable(name: str) -> str:
    """`held_out/mean/text_to_image/R@10` -> `held out, mean, text→image, R@10`."""
    return literal(name.replace("_to_", "→").replace("_", " ").replace("/", ", "))


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def draw_smoothed(ax: Axes, lines: Sequence[Line], colours: Sequence[Any]) -> None:
    """Draw lines in a light colour, and their running means over them."""
    for (steps, values), colour in zip(lines, colours, strict=True):
        draw_line(ax, (steps, values), color=colour, alpha=0.25, linewidth=1)
        draw_line(ax, (steps, running_mean(values)), color=colour)


def draw_line(ax: Axes, line: Line, **style: Any) -> None:
    """Draw a line, or a dot where there is one value."""
    steps, values = line
    if len(steps) == 1:
        style["marker"] = "o"
    ax.plot(steps, values, **style)


def line_of(history: History, name: str) -> Line:
    return finite(*history.series(name))


def finite(steps: Sequence[float], values: Sequence[float]) -> Line:
    """The points whose value can be drawn."""
    x, y = np.array(steps, np.float64), np.array(values, np.float64)
    is_drawable = np.abs(y) < 1e300  # matplotlib squares some values
    return x[is_drawable], y[is_drawable]


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean around each of (N,) values, over a window that the ends cut off."""
    half = int(SMOOTHED_SHARE * len(values) / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(values) - 1)
    means: np.ndarray = (sums[last + 1] - sums[first]) / (last + 1 - first)
    return means


def colours_of(count: int) -> list[Any]:
    """As many colours as there are runs: ten that are easily told apart, or a scale of colours."""
    import matplotlib

    if count <= 10:
        return [f"C{number}" for number in range(count)]
    return [*matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, count))]


def finish(ax: Axes, histories: Sequence[History]) -> None:
    """Label the axis of steps alike in all panels, and say where there is nothing to see."""
    last = max((line["step"] for history in histories for line in history.metrics), default=1.0)
    ax.set_xlim(0, max(1.0, last * 1.02))
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not len(drawn(ax)):
        ax.text(0.5, 0.5, "nothing yet", transform=ax.transAxes, ha="center", va="center", color="0.5")


def whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, integer=True)


def add_legend(figure: Any, histories: Sequence[History], colours: Sequence[Any]) -> None:
    """Name the runs by their colours, above all panels."""
    from matplotlib.lines import Line2D

    named = [*zip(histories, colours, strict=True)][:MAX_NAMED]
    handles = [Line2D([], [], color=colour, linewidth=3) for _, colour in named]
    # A label that begins with an underscore is left out by matplotlib.
    labels = [f"\u2060{shortened(literal(history.name))}" for history, _ in named]
    if more := len(histories) - len(named):
        handles.append(Line2D([], [], linestyle="none"))
        labels.append(f"and {more} more")
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)


def shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}...{name[-18:]}"
