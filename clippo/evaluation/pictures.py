"""Sheets of pictures: what was asked, as the model reads it, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from clippo.data.emoji import EmojiDataset
from clippo.evaluation.retrieval import embed_pictures, embed_texts
from clippo.model import Clippo

CELL_PX = 96
GAP_PX = 8
RIGHT, WRONG = (46, 160, 67), (208, 215, 222)  # frames around what was asked for, and around all else


@dataclass(frozen=True)
class Finding:
    """A query and the concepts found for it, best first; `wanted` is the one it names, if that is known."""

    text: str
    found: Sequence[int]
    wanted: int | None = None


def find_pictures(
    model: Clippo, dataset: EmojiDataset, texts: Sequence[str], top: int
) -> tuple[list[list[float]], list[list[int]]]:
    """The `top` pictures nearest to each text, best first: cosine similarities, and indices of concepts."""
    similarity = embed_texts(model, texts) @ embed_pictures(model, dataset).T
    nearest = similarity.topk(min(top, len(dataset.concepts)))
    return nearest.values.tolist(), nearest.indices.tolist()


def sample_findings(model: Clippo, dataset: EmojiDataset, seed: int = 0) -> list[Finding]:
    """What is found for two names in every language, drawn at random: a trained and a held-out one."""
    rng = np.random.default_rng(seed)
    pools = np.flatnonzero(~dataset.held_out), np.flatnonzero(dataset.held_out)
    asked = [(language, int(rng.choice(pool))) for language in dataset.config.languages for pool in pools]
    texts = [dataset.concepts[wanted].names[language] for language, wanted in asked]
    _, found = find_pictures(model, dataset, texts, top=5)
    return [Finding(text, f, wanted) for text, f, (_, wanted) in zip(texts, found, asked, strict=True)]


def draw_sheet(dataset: EmojiDataset, findings: Sequence[Finding]) -> Image.Image:
    """A row a finding: the query as rendered, then the pictures; the wanted one is framed in green."""
    columns = 1 + max(len(finding.found) for finding in findings)
    pitch = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (columns * pitch + 2 * GAP_PX, len(findings) * pitch + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    queries = dataset.renderer([finding.text for finding in findings])
    for row, finding in enumerate(findings):
        y = GAP_PX + row * pitch
        sheet.paste(cell(queries[row]), (GAP_PX, y))
        pictures = dataset.draw(finding.found)
        for column, (concept, picture) in enumerate(zip(finding.found, pictures, strict=True), start=1):
            x = 2 * GAP_PX + column * pitch
            sheet.paste(cell(picture), (x, y))
            color = RIGHT if concept == finding.wanted else WRONG
            draw.rectangle((x - 3, y - 3, x + CELL_PX + 2, y + CELL_PX + 2), outline=color, width=3)
    return sheet


def cell(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
