"""Finding pictures by text and text by pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clippo.data.emoji import EmojiDataset
from model import Clippo

KS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """One row of the table.

    Attributes:
        concepts: "trained" or "held out".
        language: two-letter code of the texts.
        direction: "text->image" or "image->text".
        candidates: how many pictures (or texts) are ranked for a query; chance is k in so many.
        recall: share of the queries, in percent, whose own partner is among the first k, by k.
    """

    concepts: str
    language: str
    direction: str
    candidates: int
    recall: dict[int, float]

    @property
    def chance(self) -> dict[int, float]:
        return {k: 100 * min(1.0, k / self.candidates) for k in KS}


def recall_at_k(queries: Tensor, candidates: Tensor) -> dict[int, float]:
    """Percent of queries whose partner, the candidate of the same row, is among the k most similar.

    Args:
        queries, candidates: (N, D) embeddings.
    """
    ranks = []
    for start in range(0, len(queries), 1024):  # N x N similarities need never exist
        similarity = queries[start : start + 1024] @ candidates.T
        own = similarity.diagonal(start).unsqueeze(1)
        # A candidate that ties with the partner counts as before it: a constant embedding earns nothing.
        ranks.append((similarity >= own).sum(1))
    rank = torch.cat(ranks)
    return {k: 100 * (rank <= k).float().mean().item() for k in KS}


@torch.inference_mode()
def embed_pictures(model: Clippo, dataset: EmojiDataset, batch_size: int = 256) -> Tensor:
    """(N, D) embeddings of the plain pictures of all concepts."""
    device = model.log_scale.device
    parts = np.array_split(np.arange(len(dataset.concepts)), -(-len(dataset.concepts) // batch_size))
    return torch.cat([model.encode_image(torch.from_numpy(dataset.draw(part)).to(device)) for part in parts])


@torch.inference_mode()
def embed_texts(model: Clippo, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """(N, D) embeddings of strings."""
    return torch.cat([model.encode_text(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])


def evaluate_retrieval(model: Clippo, dataset: EmojiDataset) -> list[Recall]:
    """Recall both ways, by language, over the trained and over the held-out concepts."""
    pictures = embed_pictures(model, dataset)
    held_out = torch.from_numpy(dataset.held_out)
    rows = []
    for language in tqdm(dataset.config.languages, desc="retrieval", unit="language"):
        texts = embed_texts(model, [concept.names[language] for concept in dataset.concepts])
        for concepts, chosen in (("trained", ~held_out), ("held out", held_out)):
            z_texts, z_pictures = texts[chosen], pictures[chosen]
            to_image, to_text = recall_at_k(z_texts, z_pictures), recall_at_k(z_pictures, z_texts)
            rows.append(Recall(concepts, language, "text->image", len(z_texts), to_image))
            rows.append(Recall(concepts, language, "image->text", len(z_texts), to_text))
    return rows


def format_table(rows: Sequence[Recall]) -> str:
    """The rows as text, each number with its chance beside it."""
    header = f"{'concepts':<10}{'language':<10}{'direction':<14}{'among':>6}" + "".join(
        f"{f'R@{k}':>8}{'chance':>8}" for k in KS
    )
    lines = [
        f"{row.concepts:<10}{row.language:<10}{row.direction:<14}{row.candidates:>6}"
        + "".join(f"{row.recall[k]:>7.1f}%{row.chance[k]:>7.2f}%" for k in KS)
        for row in sorted(rows, key=lambda row: (row.concepts != "trained", row.direction != "text->image"))
    ]
    return "\n".join([header, "-" * len(header), *lines])
