"""Study of the claims of the paper in miniature: the runs and measures of docs/claims.md.

    clippo data fetch texts; clippo data fetch dictionary
    python -m clippo.bench.studies.claims                   every claim, or: make claims
    python -m clippo.bench.studies.claims mixtures          one claim, with the runs that it hangs on

Two processes train and measure, with a thread each. What is in --out already is not done again, so that the
study goes on where it was cut off. It writes bench/results, from which the tables of docs/claims.md are made;
`claims_report` draws the picture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from clippo.bench.report import RESULTS, write
from clippo.bench.studies.sentence_pairs import letters, tfidf, words
from clippo.data.packages import PackagesConfig
from clippo.evaluation import suite
from clippo.evaluation.base import Evaluator
from clippo.evaluation.suites import find_suite
from clippo.evaluation.summary import headlines
from clippo.results import Row, provenance, read_results, write_results
from clippo.training.run_folder import RunFolder, load_model, with_renderer

__all__ = ["CLAIMS", "MIXTURES", "RUNS", "TEXT_TASKS", "main"]

PROCESSES = 2
RESULTS_FILE, METRICS_FILE = "results.json", "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """Runs of `clippo train` that differ in their seeds alone.

    Attributes:
        title: in the tables.
        flags: recipe and options.
        seeds: of the runs.
    """

    title: str
    flags: str
    seeds: Sequence[int] = (0,)


MIXED = "miniature --sentence-share"
BYTES = "--model.text bytes --model.text.max-bytes 72"  # as many letters as 36 patches show
# One language a script, and some of the larger ones in Latin letters.
LANGUAGES = "en,de,fr,es,pt,pl,fi,tr,vi,id,sw,ru,el,ka,hy,he,ar,hi,ta,am,km,ko,ja,zh"
DICTIONARY = f"dictionary --languages {LANGUAGES} --steps 900 --warmup-steps 300 --workers 0"
AUGMENTED = "--text-augment.spelling typos=0.05 upper_case=0.1 --text-augment.shift 1 --text-augment.shade 30"
THREE = (0, 1, 2)
RUNS = {
    "untrained": Run("random weights", f"{MIXED} 0 --steps 1 --learning-rate 1e-12 --warmup-steps 0"),
    "pixels-000": Run("images alone", f"{MIXED} 0", THREE),
    # Tells what sentences bring from what more steps do.
    "pixels-000-long": Run("images alone, twice as long", f"{MIXED} 0 --steps 900 --warmup-steps 300"),
    "pixels-025": Run("25 % sentences", f"{MIXED} 0.25"),
    "pixels-050": Run("50 % sentences", f"{MIXED} 0.5", THREE),
    "pixels-050-kinds": Run("50 % sentences, loss within kinds", f"{MIXED} 0.5 --loss.within-kinds"),
    "pixels-050-augmented": Run("50 % sentences, texts augmented", f"{MIXED} 0.5 {AUGMENTED}"),
    "pixels-075": Run("75 % sentences", f"{MIXED} 0.75"),
    "pixels-100": Run("sentences alone", f"{MIXED} 1"),
    "bytes-000": Run("bytes (1T), images alone", f"{MIXED} 0 {BYTES}"),
    "bytes-050": Run("bytes (1T), 50 % sentences", f"{MIXED} 0.5 {BYTES}"),
    "towers-000": Run("bytes, two towers, images alone", f"{MIXED} 0 {BYTES} --model.num-towers 2"),
    "languages-pixels": Run("pixels", DICTIONARY),
    "languages-bytes": Run("bytes (1T)", f"{DICTIONARY} --model.text bytes"),
}
MIXTURES = tuple(name for name in RUNS if not name.startswith("languages"))
TEXT_TASKS = ("sentiment", "domain", "section", "noun_class", "is_a", "words_in_context")


@dataclass(frozen=True)
class Claim:
    """Part of the study that is run by its name.

    Attributes:
        runs: names of RUNS.
        evaluators: names of the suite `claims`; none where the evaluators of the recipe say all.
    """

    runs: Sequence[str]
    evaluators: Sequence[str] = ()


CLAIMS = {
    "mixtures": Claim(MIXTURES, ("images", "sentences", *(f"text_{t}" for t in TEXT_TASKS), "similarity")),
    "questions": Claim(("untrained", "pixels-000", "pixels-050", "pixels-100", "bytes-050"), ("vqa",)),
    "spelling": Claim(
        ("pixels-000", "pixels-050", "pixels-050-augmented", "bytes-000", "bytes-050"), ("robustness",)
    ),
    "languages": Claim(("languages-pixels", "languages-bytes")),
    "inside": Claim(MIXTURES, ("modality_gap",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("claims", nargs="*", choices=[*CLAIMS, []], help=", ".join(CLAIMS))
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    arguments = parser.parse_args()
    claims = [CLAIMS[name] for name in arguments.claims or CLAIMS]
    names = [name for name in RUNS if any(name in claim.runs for claim in claims)]
    folders = {(name, seed): arguments.out / f"{name}-{seed}" for name in names for seed in RUNS[name].seeds}
    missing = [key for key, folder in folders.items() if not (folder / RESULTS_FILE).exists()]
    missing.sort(key=lambda key: key[1])  # first one seed of each, so that there is something to look at
    together("train", train, [(*key, folders[key]) for key in missing])
    measured = {
        evaluator: [folders[name, seed] for name in claim.runs for seed in RUNS[name].seeds]
        for claim in claims
        for evaluator in claim.evaluators
    }
    together("measure", measure, list(measured.items()))
    rows = [row for (name, seed), folder in folders.items() for row in rows_of(name, seed, folder)]
    rows += counted_words()
    print(f"written to {write(RESULTS, provenance(threads=1), rows, '-claims')}")
    return 0


def together(title: str, work: Callable[..., None], tasks: Sequence[Sequence[object]]) -> None:
    """Do all tasks in two processes of one thread, and show how far they are."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(work, *task) for task in tasks]
        for future in tqdm(as_completed(futures), title, len(futures), unit="run", disable=not futures):
            future.result()


def train(name: str, seed: int, folder: Path) -> None:
    """Train a run, or go on with it; what it prints goes to a file beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "clippo", "train", *RUNS[name].flags.split()]
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(
            [*command, "--seed", str(seed), "--out", str(folder), "--resume"],
            check=True, stdout=log, stderr=log,
        )  # fmt: skip


def measure(name: str, folders: Sequence[Path]) -> None:
    """Measure runs by an evaluator of the suite `claims`, which is made once.

    Each gets a file claims/NAME.json in its folder, unless it has one.
    """
    evaluator: Evaluator | None = None
    for folder in folders:
        file = folder / "claims" / f"{name}.json"
        if file.exists():
            continue
        run = RunFolder(folder)
        config, model = run.config(), with_renderer(load_model(folder))
        if evaluator is None:
            of_suite = find_suite("claims", Path("data"))[name]
            evaluator = of_suite.build(config.data, config.transform, config.model.image_size)
        rows = suite.evaluate(model, {name: evaluator})
        about = provenance(source=folder.name, data=evaluator.fingerprint)
        write_results(file, about, headlines(rows, {name: evaluator.headline}))


def rows_of(name: str, seed: int, folder: Path) -> list[Row]:
    """The measures of a run: those of `measure`, and recall at 10 of the other evaluators of its recipe."""
    last = json.loads((folder / METRICS_FILE).read_text().splitlines()[-1])
    about = {"run": name, "seed": seed, "steps": last["step"], "seconds": round(last["elapsed_s"])}
    files = sorted((folder / "claims").glob("*.json"))
    rows = [row for file in files for row in read_results(file).rows]
    measured = {row["evaluator"] for row in rows}
    for row in read_results(folder / RESULTS_FILE).rows:
        is_recall = row["metric"].endswith(("text_to_image/R@10", "chance/R@10"))
        if is_recall and row["evaluator"] not in measured:
            rows.append(row)
    return [{**about, **row} for row in rows]


def counted_words() -> list[Row]:
    """Recall of TF-IDF on the sentences that the evaluator `sentences` measures, of words and of letters."""
    config = PackagesConfig(languages=("en",))
    train, held_out = config.build("train"), config.build("held_out")
    texts = [text.text for index in range(len(train)) for text in train[index].texts]
    pairs = [(first.text, second.text) for first, second in (held_out[i].texts for i in range(len(held_out)))]
    return [
        {"run": name, "evaluator": "sentences", "metric": f"mean/text_to_image/{k}", "value": value}
        for name, terms in (("words", words), ("letters", letters))
        for k, value in tfidf(texts, pairs, terms).items()
    ]


if __name__ == "__main__":
    sys.exit(main())
