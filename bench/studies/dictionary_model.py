"""Make the model that comes with the package, clippo-dictionary, of a run of the recipe clippo_dictionary.

    clippo data fetch dictionary; clippo train clippo_dictionary
    python -m clippo.bench.studies.dictionary_model runs/clippo_dictionary

It writes model/pretrained/clippo-dictionary: the weights in half precision, and the index of the pictures
with their names. bench/results gets the measures of the run, from which the tables of the model card are
made, and tests/model/checkpoints the embeddings that a test compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from clippo.bench.report import RESULTS, markdown, write
from clippo.data.decode import decode
from clippo.data.open_dictionary import OpenDictionaryConfig
from clippo.evaluation.suite import RESULTS_FILE
from clippo.index import PictureIndex, build_index
from clippo.model import Clippo
from clippo.renderer.code_points import code_points_of, scripts
from clippo.results import ROOT, Row, read_results
from clippo.training.run_folder import RunFolder

__all__ = ["languages", "main", "scripts_table", "styles"]

NAME = "clippo-dictionary"
MODEL = ROOT / "model" / "pretrained" / NAME
INDEX = MODEL / "pictures.idx"
VECTORS = ROOT / "tests" / "model" / "checkpoints" / "shipped_vectors.json"
TEXTS = ["dog", "Hund", "собака", "كلب", "कुत्ता", "犬", "red heart", "🐈", "flag of Japan"]
PICTURES = 5
THUMBNAIL_PX = 72
EVALUATORS = {
    "all_names": "all names",
    "held_out_names": "names that were never trained",
    "openmoji": "OpenMoji, a style that was never seen",
    "fluent": "Fluent, a style that was never seen",
    "stamps": "stamps, photographs and drawings that were never seen",
    "drawings": "word pictures that were never seen",
}


def write_package(run: RunFolder) -> None:
    """Write the weights, the index and the embeddings of the test."""
    run.load_model().half().save_pretrained(MODEL)
    model = Clippo.from_pretrained(NAME).eval()
    INDEX.unlink(missing_ok=True)
    transform = run.config().transform
    build_index(model, "open_dictionary:", INDEX, name=NAME, transform=transform, thumbnail_px=THUMBNAIL_PX)
    index = PictureIndex.open(INDEX)
    place = transform.build(model.config.image_size)
    ids = index.ids[np.linspace(0, len(index) - 1, PICTURES).astype(int)].tolist()
    pictures = [place(decode(index.thumbnail(id))) for id in ids]
    vectors = {
        "texts": dict(zip(TEXTS, model.encode_text(TEXTS).numpy().round(4).tolist(), strict=True)),
        "pictures": dict(zip(ids, model.encode_image(pictures).numpy().round(4).tolist(), strict=True)),
    }
    VECTORS.write_text(json.dumps(vectors, ensure_ascii=False) + "\n", encoding="utf-8")


def measured(run: RunFolder) -> list[Row]:
    """A row for the run, and one for each evaluator and language: recall of images by text, and chance."""
    last = json.loads(run.metrics_file.read_text().splitlines()[-1])
    config = run.config()
    rows: list[Row] = [
        {"name": NAME, "steps": config.steps, "batch_size": config.batch_size, "seed": config.seed,
         "seconds": last["elapsed_s"]}
    ]  # fmt: skip
    by_metric = {(row["evaluator"], row["metric"]): row for row in read_results(run.path / RESULTS_FILE).rows}
    script_of = scripts_of_languages()
    for (evaluator, metric), recall in by_metric.items():
        language, _, rest = metric.partition("/")
        if rest != "text_to_image/R@1":
            continue
        chance = "chance" if language == "mean" else f"{language}/chance"
        recall_10 = by_metric[evaluator, f"{language}/text_to_image/R@10"]
        rows.append(
            {
                "evaluator": evaluator, "language": language, "script": script_of.get(language, ""),
                "R@1": interval(recall), "R@10": interval(recall_10),
                "chance R@10": round(by_metric[evaluator, f"{chance}/R@10"]["value"], 2),
            }
        )  # fmt: skip
    return rows


def interval(row: Row) -> list[float]:
    """The value of a row, and its interval if it has one."""
    return [round(row[key], 1) for key in ("value", "low", "high") if key in row]


def scripts_of_languages() -> dict[str, str]:
    """The script of most letters of the names of each language, a code of ISO 15924."""
    names, script_of = scripts()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    source = OpenDictionaryConfig().build("all")
    for row in range(0, len(source), 20):  # enough to tell the script
        for text in source.described(row).texts:
            found = script_of[code_points_of([text.text])[0]]
            counts[str(text.language)].update(names[number] for number in found)
    for own in counts.values():
        del own[""]  # of signs and digits, which belong to no script
    return {language: max(own, key=own.__getitem__) for language, own in counts.items() if own}


def styles(rows: Sequence[Row]) -> str:
    """Recall of each set of pictures and names: mean of the languages, and English."""
    by_key = {(row.get("evaluator"), row.get("language")): row for row in rows}
    lines = []
    for evaluator, label in EVALUATORS.items():
        for language, name in {"mean": "mean of languages", "en": "English"}.items():
            if own := by_key.get((evaluator, language)):
                lines.append([label if language == "mean" else "", name, *cells(own)])
    return markdown(["pictures and names", "", "R@1", "R@10", "*chance*"], lines)


def scripts_table(rows: Sequence[Row]) -> str:
    """R@10 of all names and of those never trained by script: means over its languages."""
    lines = []
    found = by_script(rows)
    for script, languages in sorted(found.items(), key=lambda item: -len(item[1])):
        own = [
            [row for row in languages if row["evaluator"] == evaluator]
            for evaluator in ("all_names", "held_out_names")
        ]
        recalls = [f"{mean(row['R@10'][0] for row in part):.1f}" if part else "" for part in own]
        lines.append([script, str(len(own[0])), *recalls])
    return markdown(["script", "languages", "all names, R@10", "never trained, R@10"], lines)


def by_script(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        if row.get("script") and row["evaluator"] in ("all_names", "held_out_names"):
            found[row["script"]].append(row)
    return found


def languages(rows: Sequence[Row]) -> str:
    """Recall of all names and of those never trained, a line a language that has both."""
    by_key = {(row.get("evaluator"), row.get("language")): row for row in rows}
    lines = [
        [f"{language} ({row['script']})", *cells(row), *cells(by_key["held_out_names", language])]
        for (evaluator, language), row in sorted(
            by_key.items(), key=lambda item: -item[1].get("R@10", [0])[0]
        )
        if evaluator == "all_names" and language != "mean" and ("held_out_names", language) in by_key
    ]
    header = ["language", "all names, R@1", "R@10", "*chance*", "never trained, R@1", "R@10", "*chance*"]
    return markdown(header, lines)


def cells(row: Row) -> list[str]:
    parts = []
    for metric in ("R@1", "R@10"):
        value, *bounds = row[metric]
        parts.append(f"{value:.1f}" + (f" [{bounds[0]:.1f}-{bounds[1]:.1f}]" if bounds else ""))
    return [*parts, f"*{row['chance R@10']:.1f}*"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.dictionary_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    run = RunFolder(parser.parse_args(arguments).run)
    write_package(run)
    about = read_results(run.path / RESULTS_FILE).provenance
    print(f"{sum(file.stat().st_size for file in MODEL.iterdir()):,} bytes in {MODEL}")
    print(f"results in {write(RESULTS, about, measured(run), '-dictionary-model')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
