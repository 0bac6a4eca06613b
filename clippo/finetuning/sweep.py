"""Learning rates and seeds: one run of each, the rate that is the best for choosing, and its tests.

    config.json                    what all runs have in common
    lr-3e-05-seed-0/               a run: metrics.jsonl, evaluations.jsonl, confusion.png, result.json
    lr-3e-05-seed-0/model/         the fine-tuned model, of the run with the best dev metric so far alone
    model                          a link to it
    results.json, curves.png       the result of the sweep, and the curves of all runs

A run that has its result.json is not done again, so that a sweep that was cut off goes on where it was, and
further learning rates or seeds join those that are there.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Metrics
from clippo.evaluation.classification_pictures import draw_confusion
from clippo.evaluation.summary import mean_of_runs
from clippo.files import atomic_path, remove, write_text
from clippo.finetuning.curves import draw_curves
from clippo.finetuning.fine_tuned import About, FineTuned
from clippo.finetuning.inputs import Texts
from clippo.finetuning.objectives import Classification
from clippo.finetuning.tasks import Task
from clippo.finetuning.trainer import DivergedError, FinetuneConfig, Finished, finetune, frozen
from clippo.model import Clippo
from clippo.model.configs import flat, to_dict
from clippo.results import Row, provenance, write_results
from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder

__all__ = ["SweepConfig", "SweepResult", "default_learning_rates", "sweep"]

RESULT_FILE = "result.json"
MODEL = "model"
BERT_LEARNING_RATES, BERT_WIDTH = (5e-5, 4e-5, 3e-5, 2e-5), 768
FROZEN_LEARNING_RATE = 1e-3
CUT_SAMPLE = 512  # texts, of which it is counted how many are too long


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Runs that differ in their learning rate and seed.

    Attributes:
        learning_rates: those to choose from.
        seeds: so many runs of each, with the seeds from 0.
        run: the rest of their configuration.

    Raises:
        UserError: no learning rate or one that comes twice, or no seed; see also `FinetuneConfig`.
    """

    learning_rates: tuple[float, ...]
    seeds: int = 1
    run: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        named = [f"{rate:g}" for rate in self.learning_rates]  # as in the names of the folders
        if not named or len(set(named)) < len(named):
            raise UserError(
                f"learning_rates must be one or more, all different, got {' '.join(named) or 'none'}"
            )
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")
        for rate in self.learning_rates:
            replace(self.run, learning_rate=rate)  # checks it


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        rows: of results.json: the metrics on the tests, of the learning rate that was chosen, with what
            guessing reaches; of several seeds the mean.
        learning_rate: that was chosen.
        model: folder of the fine-tuned model with the best dev metric.
        files: what was written.
    """

    rows: list[Row]
    learning_rate: float
    model: Path
    files: list[Path]


def default_learning_rates(width: int, *, freeze: bool = False) -> tuple[float, ...]:
    """The learning rates to choose from: those of BERT's protocol (arXiv 1810.04805) for a width of 768.

    For towers of other widths they are in inverse proportion to the width, as in muP (arXiv 2203.03466). The
    head of a frozen tower has one.
    """
    if freeze:
        return (FROZEN_LEARNING_RATE,)
    return tuple(float(f"{rate * BERT_WIDTH / width:.2g}") for rate in BERT_LEARNING_RATES)


def sweep(model: Clippo, task: Task, config: SweepConfig, out: Path, **about: Any) -> SweepResult:
    """Fine-tune a model once for each learning rate and seed, and write the results into a folder.

    Args:
        model: is not changed.
        task: what for.
        config: the runs.
        out: the folder; see above.
        about: joins the provenance of the results.

    Raises:
        UserError: the folder cannot be written, or holds something else, or runs of another model, task or
            configuration; every run has diverged; see also `FineTuned`.
    """
    if (processes := DistributedContext.from_environment().world_size) > 1:
        raise UserError(f"fine-tuning takes one process, and torchrun has started {processes}")
    tuned = FineTuned(model, About.of(task)).eval()
    with RunFolder(out).locked():
        prepare(out, {
            "model": model.weights_sha256(), "data": task.fingerprint, "about": to_dict(tuned.about),
            "run": {k: v for k, v in to_dict(config.run).items() if k not in ("learning_rate", "seed")},
        })  # fmt: skip
        report_cut(task, model)
        wanted = [(rate, seed) for rate in config.learning_rates for seed in range(config.seeds)]
        is_ahead = [not finished(run_folder(out, *key)) for key in wanted]
        if any(is_ahead) and config.run.freeze:
            task = frozen(tuned, task)
        for number, (rate, seed) in enumerate(wanted):
            said = f"run {number + 1} of {len(wanted)}, learning rate {rate:g}, seed {seed}"
            print(f"{task.name}: {said}" + ("" if is_ahead[number] else " is there already"))
            if is_ahead[number]:
                run = replace(config.run, learning_rate=rate, seed=seed)
                run_once(model, task, run, run_folder(out, rate, seed))
        return conclude(task, config, out, wanted, about)


def run_once(model: Clippo, task: Task, config: FinetuneConfig, folder: Path) -> None:
    """Do one run. Its model is kept if no other run of the sweep has a better one."""
    remove(folder)
    folder.mkdir()
    tuned = FineTuned(copy.deepcopy(model), About.of(task), config.seed)
    known: dict[str, Any] = {"learning_rate": config.learning_rate, "seed": config.seed}
    try:
        ended = finetune(tuned, task, config, RunFolder(folder))
    except DivergedError as error:
        print(str(error))
        write_text(folder / RESULT_FILE, json.dumps({**known, "diverged": str(error)}, indent=2) + "\n")
        return
    main = task.objective.main
    dev = float(ended.dev[main])
    others = [result for path in folder.parent.glob("lr-*") if (result := finished(path))]
    if all(dev > other["dev"][main]["value"] for other in others if "dev" in other):
        tuned.save_pretrained(folder / MODEL)
    draw_confusions(tuned, task, folder)
    write_text(folder / RESULT_FILE, json.dumps({**known, **described(ended)}, indent=2) + "\n")
    point_to_best(folder.parent, main)


def described(ended: Finished) -> dict[str, Any]:
    """The content of result.json."""
    return {
        "step": ended.step,
        "steps": ended.steps,
        "seconds": round(ended.seconds, 1),
        "dev": values(ended.dev, ended.guessing),
        "tests": {name: values(found, ended.test_guessing[name]) for name, found in ended.tests.items()},
    }


def values(metrics: Metrics, guessing: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found = {}
    for name, value in metrics.items():
        found[name] = {"value": float(value), "guessing": float(guessing[name])}
        if isinstance(value, Estimate):
            found[name] |= {"low": value.low, "high": value.high}
    return found


def conclude(
    task: Task, config: SweepConfig, out: Path, wanted: Sequence[tuple[float, int]], about: dict[str, Any]
) -> SweepResult:
    """Choose the learning rate, and write results.json and curves.png.

    Raises:
        UserError: no learning rate has runs that are all finite.
    """
    main = task.objective.main
    results = {key: finished(run_folder(out, *key)) for key in wanted}
    whole = {
        rate: [results[rate, seed] for seed in range(config.seeds)]
        for rate in config.learning_rates
        if all("dev" in results[rate, seed] for seed in range(config.seeds))
    }
    if not whole:
        raise UserError(
            f"{task.name}: no learning rate was without a loss that is not finite: try lower ones"
        )
    chosen = max(whole, key=lambda rate: sum(run["dev"][main]["value"] for run in whole[rate]))
    point_to_best(out, main)
    by_seed = [rows_of(task.name, run) for run in whole[chosen]]
    rows = mean_of_runs(by_seed) if len(by_seed) > 1 else by_seed[0]
    runs = [{"run": run_folder(out, *key).name, **results[key]} for key in wanted]
    files = [out / "results.json", out / "curves.png"]
    more = {"task": task.name, "learning_rate": chosen, "seeds": config.seeds, "data": task.fingerprint}
    write_results(files[0], provenance(**about, **more), rows, runs=runs)
    folders = {
        rate: [RunFolder(run_folder(out, rate, seed)) for seed in range(config.seeds)]
        for rate in config.learning_rates
    }
    with atomic_path(files[1]) as file:
        draw_curves(folders, task.name, main).save(file)
    return SweepResult(rows, chosen, out / MODEL, files)


def rows_of(task: str, result: Mapping[str, Any]) -> list[Row]:
    """The rows of the tests of a run; the name of a set of several comes before those of its metrics."""
    return [
        {"evaluator": task, "metric": f"{name}/{metric}" if name else metric, **value}
        for name, metrics in result["tests"].items()
        for metric, value in metrics.items()
    ]


def prepare(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder ready, and write down what its runs have in common.

    Raises:
        UserError: as of `sweep`.
    """
    file = out / "config.json"
    if not file.is_file():
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty and holds no fine-tuning; choose another --out")
        write_text(file, json.dumps(config, indent=2) + "\n")
        return
    try:
        before = flat(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    now = flat(json.loads(json.dumps(config)))
    if differing := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        key = differing[0]
        raise UserError(
            f"{out} holds runs of another configuration: {key} is {before.get(key)} there and "
            f"{now.get(key)} here; choose another --out"
        )


def run_folder(out: Path, rate: float, seed: int) -> Path:
    return out / f"lr-{rate:g}-seed-{seed}"


def finished(folder: Path) -> dict[str, Any]:
    """The result of a run; empty if it has not ended."""
    try:
        found = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def point_to_best(out: Path, metric: str) -> None:
    """Let the link of a sweep name the best model that was kept, and remove the others.

    Raises:
        UserError: somebody has removed it.
    """
    kept = [path.parent for path in out.glob(f"lr-*/{MODEL}") if finished(path.parent)]
    if not kept:
        raise UserError(f"the model of {out} is gone: remove the folder, and begin anew")
    best = max(kept, key=lambda folder: float(finished(folder)["dev"][metric]["value"]))
    with atomic_path(out / MODEL) as unfinished:
        os.symlink(Path(best.name, MODEL), unfinished)
    for other in kept:
        if other != best:
            remove(other / MODEL)


def draw_confusions(tuned: FineTuned, task: Task, folder: Path) -> None:
    """Draw which classes are taken for which, of each set of examples to test on."""
    if not isinstance(task.objective, Classification):
        return
    names = dict(enumerate(task.objective.classes))
    for name, part in task.tests.items():
        predicted = tuned.outputs_of(part).argmax(1).numpy()
        picture = draw_confusion(part.targets[part.rows], predicted, names)
        with atomic_path(folder / ("_".join(filter(None, ["confusion", name])) + ".png")) as file:
            picture.save(file)


def report_cut(task: Task, model: Clippo) -> None:
    """Say how many texts are too long for the model."""
    inputs = task.train.inputs
    if isinstance(inputs, Texts):
        drawn = task.train.drawn(CUT_SAMPLE, "cut")
        if share := inputs.num_cut(model, drawn.rows) / len(drawn):
            print(f"{task.name}: {share:.0%} of the texts are too long for the model, which cuts them")
