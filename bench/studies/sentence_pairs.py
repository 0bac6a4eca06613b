"""Study of patch-aligned text on pairs of consecutive sentences.

    clippo data fetch texts                                                Debian's package descriptions
    python -m clippo.bench.studies.sentence_pairs train word-2e-3          one run, or all by default
    python -m clippo.bench.studies.sentence_pairs report                   the table, in bench/results too

A small tower is trained, on one thread and from nothing, on pairs of consecutive sentences. Every 500 steps
the descriptions of 1,000 packages that it has not seen are looked for by their synopses. Each layout is tried
with several learning rates, so that none is judged by the rate that suits another. A run has a file in --out.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from clippo.bench.report import RESULTS, write
from clippo.data.remote import cache_folder
from clippo.files import write_text
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig, RendererConfig, UnifontRendererConfig
from clippo.results import provenance
from clippo.seeds import generator, torch_seed
from clippo.training.optimizers import AdamWConfig
from clippo.training.schedules import CosineConfig
from clippo_kernels import contrastive_loss

__all__ = ["RUNS", "Document", "letters", "main", "sentences", "split", "table", "tfidf", "words"]

SIZE = 128  # px: 8 rows of 16 cells
LONGEST = 300  # letters of a description that are embedded; the canvas shows 128 or fewer
ASKED = 1000
EVERY = 500


DEEP = ClippoConfig(
    width=96, depth=3, mlp_dim=384, num_heads=3, patch_size=16, image_size=SIZE, embed_dim=128,
    text=RenderedTextConfig(tokens="inked"),
)  # fmt: skip
# Close to a bag of words: one block, and embeddings with room for many of them.
SHALLOW = replace(DEEP, width=128, depth=1, mlp_dim=256, num_heads=4, embed_dim=512)


@dataclass(frozen=True)
class Run:
    """A run of the study.

    Attributes:
        title: in the table.
        renderer: lays the texts out.
        learning_rate: the highest, after the warm-up.
        steps: of the run.
        model: the tower.
        batch_size: pairs of a step.
        warmup_steps: a third of the steps by default.
        description_share: how often a pair is a synopsis with its description, or the part of that from a
            random sentence on, in place of two consecutive sentences.
    """

    title: str
    renderer: RendererConfig
    learning_rate: float
    steps: int = 1500
    model: ClippoConfig = DEEP
    batch_size: int = 128
    warmup_steps: int = 0
    description_share: float = 0.0


NONE, CELL, WORD = UnifontRendererConfig(), AlignedRendererConfig(align="cell"), AlignedRendererConfig()
RUNS = {
    "none-5e-4": Run("published layout", NONE, 5e-4),
    "none-1e-3": Run("published layout", NONE, 1e-3),
    "none-2e-3": Run("published layout", NONE, 2e-3),
    "none-long": Run("published layout", NONE, 1e-3, steps=4000),
    "cell-2e-3": Run("cells", CELL, 2e-3),
    "word-1e-3": Run("words", WORD, 1e-3),
    "word-2e-3": Run("words", WORD, 2e-3),
    "descriptions": Run(
        "words, one block, synopses with descriptions",
        WORD,
        2e-3,
        model=SHALLOW,
        batch_size=256,
        warmup_steps=100,
        description_share=0.7,
    ),
}


class Document(NamedTuple):
    """A package description.

    Attributes:
        source: the source package, whose packages have much of their text in common.
        synopsis: its first line.
        sentences: of the other lines.
    """

    source: str
    synopsis: str
    sentences: tuple[str, ...]


def sentences(description: str) -> tuple[str, ...]:
    """The sentences of the long part of a description, in which a line of one dot ends a paragraph."""
    paragraphs = re.split(r"\n\s*\.\n", description)
    parts = (re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())) for paragraph in paragraphs)
    return tuple(sentence for part in parts for sentence in part if len(sentence) > 15)


def documents(file: Path) -> list[Document]:
    """The English descriptions of Debian's packages, of the packages.jsonl that `clippo data fetch` writes.

    Raises:
        FileNotFoundError: it is not there.
    """
    found = {}  # a text of several source packages counts once
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            described = sentences(row["description"]["en"])
            if described:
                synopsis = row["synopsis"]["en"]
                found[synopsis, described] = Document(row["source"], synopsis, described)
    return sorted(found.values())


def split(
    found: Sequence[Document],
) -> tuple[list[tuple[str, str]], list[Document], list[tuple[str, str]]]:
    """Pairs of consecutive sentences to train on, their documents, and synopses with descriptions to find.

    A fifth of the source packages is held out, so that no text of theirs is trained on. The synopsis counts
    as the first sentence.
    """
    sources = sorted({document.source for document in found})
    held_out = set(generator(0, "held out").permutation(sources)[: len(sources) // 5].tolist())
    pairs: dict[tuple[str, str], None] = {}
    trained: list[Document] = []
    asked: dict[str, tuple[str, str]] = {}
    for document in found:
        if document.source in held_out:
            asked.setdefault(document.source, (document.synopsis, part(document, 0)))
        else:
            texts = (document.synopsis, *document.sentences)
            pairs.update(dict.fromkeys(zip(texts, document.sentences, strict=False)))
            trained.append(document)
    chosen = generator(0, "asked").permutation(len(asked))[:ASKED]
    everything = list(asked.values())
    return list(pairs), trained, [everything[index] for index in chosen.tolist()]


def part(document: Document, first: int) -> str:
    """A description from a sentence on, as far as it is embedded."""
    return " ".join(document.sentences[first:])[:LONGEST]


def batch(
    run: Run, step: int, pairs: Sequence[tuple[str, str]], trained: Sequence[Document]
) -> list[tuple[str, str]]:
    """The pairs of a step, as a function of its number alone."""
    rng = generator(0, "batch", step)
    described = int(rng.binomial(run.batch_size, run.description_share))
    chosen = rng.choice(len(pairs), run.batch_size - described, replace=False).tolist()
    texts = [pairs[index] for index in chosen]
    for index in rng.choice(len(trained), described, replace=False).tolist():
        document = trained[index]
        first = int(rng.integers(len(document.sentences))) if rng.random() < 0.5 else 0
        texts.append((document.synopsis, part(document, first)))
    return texts


def recalls(similarity: np.ndarray) -> dict[str, float]:
    """R@1 and R@10, %, of a square matrix whose right answers are on its diagonal. Ties are misses."""
    rank = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return {f"R@{k}": 100 * float((rank <= k).mean()) for k in (1, 10)}


def train(
    run: Run,
    pairs: Sequence[tuple[str, str]],
    trained: Sequence[Document],
    asked: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Train a model, and measure it every 500 steps."""
    torch.manual_seed(torch_seed(0, "weights"))
    model = Clippo(run.model, run.renderer.build(SIZE))
    model.init_weights(residual_scale=0.2)
    optimizer = AdamWConfig().build(model.named_parameters(), model.config)
    synopses, descriptions = (list(side) for side in zip(*asked, strict=True))
    measured, losses, seconds = {}, [], 0.0
    for step in tqdm(range(run.steps), unit="step", mininterval=5):
        start = time.perf_counter()
        firsts, others = zip(*batch(run, step, pairs, trained), strict=True)
        z = model(texts=model.text_input.tokenize([*firsts, *others]))[1]
        loss = contrastive_loss(z[: run.batch_size], z[run.batch_size :], model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            warmup_steps = run.warmup_steps or run.steps // 3
            factor = CosineConfig().factor(step, steps=run.steps, warmup_steps=warmup_steps)
            group["lr"] = run.learning_rate * factor
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100.0))
        losses.append(loss.item())
        seconds += time.perf_counter() - start
        if (step + 1) % EVERY == 0:
            similarity = model.encode_text(synopses) @ model.encode_text(descriptions).T
            measured[step + 1] = recalls(similarity.numpy()) | {"loss": float(np.mean(losses[-100:]))}
    return {"measured": measured, "seconds": seconds}


def tfidf(
    trained: Sequence[str], asked: Sequence[tuple[str, str]], terms: Callable[[str], list[str]]
) -> dict[str, float]:
    """Recall of cosines of TF-IDF with logarithmic counts, for comparison. Only trained terms count."""
    frequency = Counter(term for text in trained for term in set(terms(text)))
    known = sorted({term for texts in asked for text in texts for term in terms(text)} & frequency.keys())
    index = {term: number for number, term in enumerate(known)}
    idf = np.log((1 + len(trained)) / (1 + np.array([frequency[term] for term in known]))) + 1
    vectors = np.zeros((2, len(asked), len(known)), np.float32)
    for row, texts in enumerate(asked):
        for side, text in enumerate(texts):
            for term, count in Counter(terms(text)).items():
                if term in index:
                    vectors[side, row, index[term]] = (1 + math.log(count)) * idf[index[term]]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True) + 1e-9
    return recalls(vectors[0] @ vectors[1].T)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def letters(text: str) -> list[str]:
    """One to three neighbouring letters of a word with its boundaries."""
    padded = [f" {word} " for word in words(text)]
    return [word[i : i + n] for word in padded for n in (1, 2, 3) for i in range(len(word) - n + 1)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown: recall of each run at the end of its steps, and of the methods without training."""
    lines = ["| | learning rate | steps | s | loss | R@1 | R@10 |", "|---|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        if row["steps"] < row.get("of", 0):
            continue
        about = " | " * 3
        if row["steps"]:
            about = f"{row['learning_rate']:g} | {row['steps']} | {row['seconds']:.0f} | {row['loss']:.2f}"
        lines.append(f"| {row['title']} | {about} | {row['R@1']:.1f} | {row['R@10']:.1f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.sentence_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=("train", "report"))
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], help=", ".join(RUNS))
    parser.add_argument("--texts", type=Path, default=cache_folder("texts"))
    parser.add_argument("--out", type=Path, default=Path("runs/sentence_pairs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs, trained_documents, asked = split(documents(arguments.texts / "packages.jsonl"))
    print(f"{len(pairs):,} pairs of sentences, {len(asked):,} descriptions to find")
    if arguments.verb == "train":
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in arguments.runs or RUNS:
            file = arguments.out / f"{name}.json"
            if not file.exists():
                write_text(file, json.dumps(train(RUNS[name], pairs, trained_documents, asked)) + "\n")
        return 0
    rows: list[dict[str, Any]] = []
    for name, run in RUNS.items():
        file = arguments.out / f"{name}.json"
        if file.exists():
            found = json.loads(file.read_text())
            about = {"run": name, "title": run.title, "learning_rate": run.learning_rate}
            for steps, measured in found["measured"].items():
                share = int(steps) / run.steps
                about |= {"steps": int(steps), "of": run.steps, "seconds": share * found["seconds"]}
                rows.append(about | measured)
    trained = [text for pair in pairs for text in pair]
    for title, terms in (("TF-IDF of words", words), ("TF-IDF of one to three letters", letters)):
        rows.append({"run": "tfidf", "title": title, "steps": 0, **tfidf(trained, asked, terms)})
    chance = {f"R@{k}": 100 * k / len(asked) for k in (1, 10)}
    rows.append({"run": "chance", "title": "chance", "steps": 0, **chance})
    print(table(rows))
    print(f"\nwritten to {write(RESULTS, provenance(threads=1), rows, '-sentence-pairs')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
