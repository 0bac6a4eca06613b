"""Compare runs: how far they are, how well they do, and how they differ."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from clippo.arguments import call
from clippo.errors import UserError, printable
from clippo.pictures import check_picture_path

if TYPE_CHECKING:
    from clippo.training.history import History
    from clippo.training.run_folder import RunFolder

__all__ = ["main"]

WIDTH = 110  # of the table, where there is no terminal
LONGEST = 32  # characters of a cell
GAP = "  "


def runs(
    folders: tuple[Path, ...] = (Path("runs"),),
    /,
    *,
    plot: Path | None = None,
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare runs: how far they are, how well they do, and how they differ.

    Lists the runs with the parameters in which they differ. A folder that holds runs stands for all of them.
    The runs may still go on:

        clippo runs runs
        clippo runs runs/emoji runs/mine --plot curves.png

    Args:
        folders: Folders of runs of `clippo train`, or folders that hold such folders.
        plot: Draw the learning curves of the runs into this picture file.
        as_json: Print JSON, with every evaluation metric.
    """
    from clippo.training.curves import draw
    from clippo.training.history import headlines, read_histories

    if plot is not None:
        check_picture_path(plot)
    found = runs_of(folders)
    histories = read_histories(found)
    summaries = [summary_of(run, history) for run, history in zip(found, histories, strict=True)]
    keep_what_differs(summaries)
    if as_json:
        print(json.dumps([for_json(asdict(summary)) for summary in summaries], indent=2))
    else:
        print(report(summaries, headlines(histories)[:1]))
    if plot is not None:
        draw(found, plot)


@dataclass
class Summary:
    """A run as the table shows it.

    Attributes:
        name: tells it from the others.
        path: its folder.
        state: "finished", "at step K of N" or "never started".
        parameters: of its configuration, by dotted names.
        loss, pairs_per_s: of the last line of metrics, None where there is none.
        hours: of training.
        evaluations: the best value and the last of each metric of an evaluation. The best is the highest.
        problems: what is wrong with the run, in words.
    """

    name: str
    path: str
    state: str
    parameters: dict[str, Any]
    loss: float | None
    pairs_per_s: float | None
    hours: float
    evaluations: dict[str, dict[str, float]]
    problems: list[str]


def runs_of(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs that folders are or hold, each once.

    Raises:
        UserError: one of the folders is no run and holds none.
    """
    from clippo.training.run_folder import RunFolder

    found: dict[Path, RunFolder] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        own = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if is_run(path))
        if not own:
            raise UserError(f"{folder} is not the folder of a run, and holds none: runs have a config.json")
        for path in own:
            found.setdefault(path.resolve(), RunFolder(path))
    return [*found.values()]


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run. One with the weights of a model has a config.json as well."""
    has_config = (folder / "config.json").exists() and not (folder / "model.safetensors").exists()
    return has_config or (folder / "metrics.jsonl").exists()


def summary_of(run: RunFolder, history: History) -> Summary:
    from clippo.model.configs import flat, to_dict

    problems = [*history.problems]
    parameters: dict[str, Any] = {}
    try:
        parameters = flat(to_dict(run.config()))
    except (UserError, OSError) as error:
        problems.insert(0, printable(str(error)))
    last = history.metrics[-1] if history.metrics else {}
    return Summary(
        name=history.name,
        path=str(run.path),
        state=state_of(int(last.get("step", 0)), parameters.get("steps")),
        parameters=parameters,
        loss=last.get("loss"),
        pairs_per_s=last.get("pairs_per_s"),
        hours=history.hours(),
        evaluations=evaluations_of(history),
        problems=problems,
    )


def state_of(step: int, steps: int | None) -> str:
    """How far a run is, whose number of steps may be unknown."""
    if step == 0:
        return "never started"
    if steps is None:
        return f"at step {step}"
    return "finished" if step >= steps else f"at step {step} of {steps}"


def evaluations_of(history: History) -> dict[str, dict[str, float]]:
    """The best and the last value of each metric of an evaluation, but for what guessing reaches."""
    out = {}
    for name in dict.fromkeys(name for line in history.evaluations for name in line if name != "step"):
        values = [value for value in history.series(name)[1] if math.isfinite(value)]
        if values and "chance" not in name.split("/"):
            out[name] = {"best": max(values), "last": values[-1]}
    return out


def keep_what_differs(summaries: Sequence[Summary]) -> None:
    """Leave out the parameters that all runs share. A run whose configuration cannot be read has none.

    Where the runs differ in the type of a part, the parameters that not all of these types have go as well.
    """
    readable = [summary.parameters for summary in summaries if summary.parameters]
    names = dict.fromkeys(name for parameters in readable for name in parameters)
    differing = {name for name in names if any(own.get(name) != readable[0].get(name) for own in readable)}
    for name in [*differing]:
        types = {f"{name[:at]}.type" for at, letter in enumerate(name) if letter == "."} - {name}
        if types & differing and any(name not in own for own in readable):
            differing.remove(name)
    for summary in summaries:
        summary.parameters = {name: value for name, value in summary.parameters.items() if name in differing}


def for_json(content: Any) -> Any:
    """Content without numbers that JSON does not have."""
    if isinstance(content, dict):
        return {key: for_json(value) for key, value in content.items()}
    if isinstance(content, list):
        return [for_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def report(summaries: Sequence[Summary], headline: Sequence[str]) -> str:
    """The table of runs, and below it what its columns mean and what is wrong with the runs.

    The parameters in which the runs differ are further columns if these fit into the terminal, or else the
    lines of a second table, whose columns are the runs.

    Args:
        summaries: the runs, with the parameters in which they differ.
        headline: the metric that is shown, or none.
    """
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    rows = [["run", "state", "loss", *(["best", "last"] if headline else []), "pairs/s", "hours"]]
    rows += [row_of(summary, headline) for summary in summaries]
    names = dict.fromkeys(name for summary in summaries for name in summary.parameters)
    known = [["run", *names], *([cell(each.name), *values_of(each, names)] for each in summaries)]
    both = [row + parameters for row, (_, *parameters) in zip(rows, known, strict=True)]
    if not names or width_of(both) <= width:
        blocks = table(both)
    else:
        blocks = [*table(rows), "", *folded([*zip(*known, strict=True)], width)]
    if headline:
        blocks += ["", f"best, last: {headline[0]}, at its highest and at the end"]
    if wrong := [f"{each.name}: {'; '.join(each.problems)}" for each in summaries if each.problems]:
        blocks += ["", *wrong]
    return "\n".join(printable(line) for line in blocks)


def row_of(summary: Summary, headline: Sequence[str]) -> list[str]:
    values = [summary.evaluations.get(name, {}).get(key) for name in headline for key in ("best", "last")]
    return [
        cell(summary.name),
        summary.state,
        *map(rounded, (summary.loss, *values, summary.pairs_per_s)),
        f"{summary.hours:.2f}",
    ]


def values_of(summary: Summary, names: Iterable[str]) -> list[str]:
    return [cell(summary.parameters.get(name)) for name in names]


def rounded(value: float | None) -> str:
    """A number with at least three digits: 0.0123, 4.56, 78.9, 1,234."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def cell(value: object) -> str:
    """A parameter as the command line takes it, without its middle if it is long."""
    if value is None:
        return "-"
    text = (" ".join(map(str, value)) if isinstance(value, list) else str(value)) or "''"
    half = (LONGEST - 3) // 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"


def widths_of(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def width_of(rows: Sequence[Sequence[str]]) -> int:
    widths = widths_of(rows)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned cells: texts to the left, numbers and the names above them to the right."""
    is_left = [not any(is_number(text) for text in column[1:]) for column in zip(*rows, strict=True)]
    return [
        GAP.join(
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(row, widths_of(rows), is_left, strict=True)
        ).rstrip()
        for row in rows
    ]


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def folded(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table whose columns go on below, after the first column again, where they do not fit into a width."""
    blocks: list[list[list[str]]] = []
    for column in list(zip(*rows, strict=True))[1:]:
        wider = [[*row, text] for row, text in zip(blocks[-1], column, strict=True)] if blocks else []
        if wider and width_of(wider) <= width:
            blocks[-1] = wider
        else:
            blocks.append([[row[0], text] for row, text in zip(rows, column, strict=True)])
    return [line for block in blocks for line in ["", *table(block)]][1:]


def main(arguments: list[str]) -> None:
    call(runs, arguments, prog="clippo runs")
