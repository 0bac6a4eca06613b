"""Draws what the tower reads and does, with a real picture and a real caption.

    python -m clippo.bench.studies.plot_tower                                       writes docs/img/tower.png
    python -m clippo.bench.studies.plot_tower --emoji 🍓 --text "a ripe strawberry" --out berry.png

Needs the fonts of `clippo train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clippo.data.emoji import EmojiFont
from clippo.errors import UserError
from clippo.renderer import UnifontRenderer
from clippo.results import ROOT

__all__ = ["main"]

SIZE, PATCH = 128, 16
PHOTOGRAPH, TEXT = "#d9822b", "#2b6cb0"  # tokens of either


def picture_of(emoji: str) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8 of an emoji on grey."""
    rgba = EmojiFont().draw(emoji, SIZE)
    if rgba is None:
        raise UserError(f"the font has no picture of {emoji!r}")
    alpha = rgba[..., 3:].astype(np.uint16)
    return (rgba[..., :3] + 127 * (255 - alpha) // 255).astype(np.uint8)


def draw(emoji: str, text: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rendered, report = UnifontRenderer(SIZE).render([text], patch_size=PATCH)
    is_inked = report.inked[0]
    figure, axes = plt.subplots(figsize=(10, 4.4), dpi=150, layout="constrained")
    axes.set(xlim=(0, 200), ylim=(0, 88), aspect="equal")
    axes.axis("off")

    everything = np.ones_like(is_inked)
    picture(axes, picture_of(emoji), everything, (2, 48), PHOTOGRAPH)
    picture(axes, np.repeat(rendered[0][..., None], 3, 2), is_inked, (2, 6), TEXT)
    inked, patches = int(is_inked.sum()), is_inked.size
    axes.text(20, 85.5, "a picture", ha="center")
    axes.text(20, 43.5, "its caption, drawn", ha="center")
    axes.text(20, 2.5, f"inked: {inked} of {patches} patches", ha="center", fontsize=8, color=TEXT)

    arrow(axes, (40, 66), (50, 56))
    arrow(axes, (40, 24), (50, 42))
    box(
        axes,
        (50, 38),
        (24, 22),
        "patch embedding\none weight, 16 x 16\n+ position",
        "patch_embed\npatch_embed_select",
    )
    arrow(axes, (74, 49), (80, 49))
    strip(axes, (80, 14), patches, inked)
    arrow(axes, (95, 49), (101, 49))
    box(
        axes,
        (101, 32),
        (34, 34),
        "L blocks\n\nx + attention(norm(x))\nx + MLP(norm(x))\n\nwithin each sequence",
        "flash_attention_varlen",
    )
    arrow(axes, (135, 49), (141, 49))
    box(axes, (141, 38), (22, 22), "one learned query\nper sequence\n(MAP head)", "attention_pool_varlen")
    arrow(axes, (163, 52), (171, 60))
    arrow(axes, (163, 46), (171, 38))
    for y, color, name in ((60, PHOTOGRAPH, "$z_i$"), (38, TEXT, "$z_t$")):
        axes.text(173, y, name, fontsize=14, va="center", color=color)
    axes.text(188, 49, "cosine\n→ contrastive loss", ha="center", va="center", fontsize=8)
    axes.text(188, 40, "contrastive_loss", ha="center", fontsize=6.5, family="monospace", color="0.4")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def picture(axes: Any, pixels: np.ndarray, is_read: np.ndarray, corner: tuple[int, int], color: str) -> None:
    """An image with the patches that are read in frames, and the others faded."""
    x, y = corner
    side = 36
    shown = pixels.astype(float)
    faded = ~is_read.repeat(PATCH, 0).repeat(PATCH, 1)
    shown[faded] = 255 - (255 - shown[faded]) * 0.35
    axes.imshow(shown.astype(np.uint8), extent=(x, x + side, y, y + side), interpolation="nearest", zorder=1)
    step = side / len(is_read)
    for row, column in np.argwhere(is_read):
        left, bottom = x + column * step, y + side - (row + 1) * step
        axes.add_patch(rectangle((left, bottom), step, step, fill=False, edgecolor=color, linewidth=0.8))


def strip(axes: Any, corner: tuple[float, float], photograph: int, text: int) -> None:
    """The packed tokens, one below the other, in columns."""
    x, y = corner
    columns, side = 5, 2.6
    for i in range(photograph + text):
        row, column = divmod(i, columns)
        color = PHOTOGRAPH if i < photograph else TEXT
        at = (x + column * side, y + 66 - row * side)
        axes.add_patch(rectangle(at, 0.85 * side, 0.85 * side, facecolor=color))
    rows = -(-(photograph + text) // columns)
    below = y + 66 - rows * side
    axes.text(x + columns * side / 2, y + 70.5, "tokens, packed", ha="center", fontsize=8)
    axes.text(
        x + columns * side / 2, below - 1, f"{photograph} + {text}\ninstead of {2 * photograph}",
        ha="center", va="top", fontsize=8,
    )  # fmt: skip


def box(axes: Any, corner: tuple[float, float], size: tuple[float, float], text: str, op: str) -> None:
    x, y = corner
    width, height = size
    axes.add_patch(rectangle(corner, width, height, facecolor="0.95", edgecolor="0.3"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)
    axes.text(
        x + width / 2, y - 1.5, op, ha="center", va="top", fontsize=6.5, family="monospace", color="0.4"
    )


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.3"})


def rectangle(corner: tuple[float, float], width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.plot_tower",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--emoji", default="🍓", help="the picture")
    parser.add_argument("--text", default="a ripe strawberry, still wet", help="its caption")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "tower.png")
    arguments = parser.parse_args()
    draw(arguments.emoji, arguments.text, arguments.out)
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
