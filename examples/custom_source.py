"""A source of data in a file of one's own: coloured shapes, and what they are called.

    python examples/custom_source.py train own --data shapes: --out runs/shapes --model.image-size 64 \\
        --steps 200 --warmup-steps 20 --learning-rate 2e-3

is the `clippo` program with one more kind of source, `shapes:`, for every command that takes one. The run
trains on 100 names, such as "small red circle", and then finds the pictures of 20 others: the first one is
right in 90 % of the cases (R@1; chance is 5 %). The same classes in a file in `clippo/data/` are
found without a script.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from clippo.cli import main
from clippo.data.base import Example, Source, SourceConfig, Split, Text

SIZES = {"small": 0.3, "middle-sized": 0.6, "large": 0.9}
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "circle": 60}


@dataclass(frozen=True, kw_only=True)
class ShapesConfig(SourceConfig):
    """Coloured shapes.

    Attributes:
        held_out: one name in so many is kept out of training.
    """

    name: ClassVar[str] = "shapes"
    held_out: int = 6

    def build(self, split: Split, *, image_size: int) -> "Shapes":
        names = list(product(SIZES, COLOURS, CORNERS))
        held_out = names[:: self.held_out]
        trained = [name for name in names if name not in held_out]
        return Shapes({"train": trained, "held_out": held_out, "all": names}[split], image_size)


class Shapes(Source):
    """Pictures that are drawn when they are asked for."""

    def __init__(self, names: list[tuple[str, str, str]], image_size: int) -> None:
        self.names, self.image_size = names, image_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        size, colour, shape = self.names[index]
        picture = Image.new("RGB", (self.image_size, self.image_size), "grey")
        middle = self.image_size / 2
        circle = (middle, middle, SIZES[size] * middle)
        ImageDraw.Draw(picture).regular_polygon(circle, CORNERS[shape], fill=colour)
        text = f"{size} {colour} {shape}"
        return Example(text, np.asarray(picture), (Text(text, "en"),))


if __name__ == "__main__":
    main()
