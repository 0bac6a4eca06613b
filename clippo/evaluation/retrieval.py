"""Finding pictures by text and text by pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from clippo.data.emoji import EmojiDataset
from clippo.model import Clippo

KS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """One row of the table.

    Attributes:
        concepts: those of the queries, "trained" or "held out".
        among: those of the candidates, "trained", "held out" or "all".
        language: two-letter code of the texts.
        direction: "text->image" or "image->text".
        candidates: how many pictures (or texts) are ranked for a query; chance is k in so many.
        recall: share of the queries, in percent, whose own partner is among the first k, by k.
    """

    concepts: str
    among: str
    language: str
    direction: str
    candidates: int
    recall: dict[int, float]

    @property
    def chance(self) -> dict[int, float]:
        return {k: 100 * min(1.0, k / self.candidates) for k in KS}


def recall_at_k(queries: Tensor, candidates: Tensor, partners: Tensor) -> dict[int, float]:
    """Percent of queries whose partner is among the k most similar candidates, by k.

    Args:
        queries: (Q, D) embeddings.
        candidates: (N, D) embeddings.
        partners: (Q,) index of each query's partner among the candidates.
    """
    ranks = []
    for rows in torch.arange(len(queries)).split(1024):  # the Q x N similarities need never exist at once
        similarity = queries[rows] @ candidates.T
        own = similarity.gather(1, partners[rows, None])
        # A candidate that ties with the partner counts as before it: a constant embedding earns nothing.
        ranks.append((similarity >= own).sum(1))
    rank = torch.cat(ranks)
    return {k: 100 * (rank <= k).float().mean().item() for k in KS}


@torch.inference_mode()
def embed_pictures(model: Clippo, dataset: EmojiDataset, batch_size: int = 256) -> Tensor:
    """(N, D) embeddings of the plain pictures of all concepts, on the CPU."""
    device = model.device
    parts = torch.arange(len(dataset.concepts)).split(batch_size)
    pictures = (torch.from_numpy(dataset.draw(part.numpy())) for part in parts)
    return torch.cat([model.encode_image(part.to(device)).cpu() for part in pictures])


@torch.inference_mode()
def embed_texts(model: Clippo, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """(N, D) embeddings of strings, on the CPU."""
    parts = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    return torch.cat([model.encode_text(part).cpu() for part in parts])


def evaluate_retrieval(model: Clippo, dataset: EmojiDataset) -> list[Recall]:
    """Recall both ways, by language.

    Trained concepts are ranked among the trained ones. Held-out ones are ranked among themselves, and among
    all: there, what is trained of the same person and role in other skin tones competes.
    """
    pictures = embed_pictures(model, dataset)
    held_out = torch.from_numpy(dataset.held_out)
    members = {
        "trained": (~held_out).nonzero().squeeze(1),
        "held out": held_out.nonzero().squeeze(1),
        "all": torch.arange(len(held_out)),
    }
    rows = []
    for language in tqdm(dataset.config.languages, desc="retrieval", unit="language"):
        texts = embed_texts(model, [concept.names[language] for concept in dataset.concepts])
        for concepts, among in (("trained", "trained"), ("held out", "held out"), ("held out", "all")):
            asked, ranked = members[concepts], members[among]
            partners = torch.searchsorted(ranked, asked)
            for direction, queries, candidates in (
                ("text->image", texts, pictures),
                ("image->text", pictures, texts),
            ):
                recall = recall_at_k(queries[asked], candidates[ranked], partners)
                rows.append(Recall(concepts, among, language, direction, len(ranked), recall))
    return rows


def format_table(rows: Sequence[Recall]) -> str:
    """The rows as text, each number with its chance beside it."""
    header = f"{'concepts':<10}{'among':<15}{'language':<10}{'direction':<13}" + "".join(
        f"{f'R@{k}':>8}{'chance':>8}" for k in KS
    )
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        line = f"{row.concepts:<10}{f'{row.candidates} {row.among}':<15}{row.language:<10}{row.direction:<13}"
        line += "".join(f"{row.recall[k]:>7.1f}%{row.chance[k]:>7.2f}%" for k in KS)
        groups.setdefault((row.concepts, row.among, row.direction), []).append(line)
    return "\n".join([header, "-" * len(header), *(line for group in groups.values() for line in group)])
