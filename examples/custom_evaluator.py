"""An evaluator in a file of one's own: are pictures still found by their names without their colours?

    python examples/custom_evaluator.py

measures the model that comes with the package, and prints

    colours        R@1
    chance        0.07
    coloured     69.99
    grey         14.09

A run measures it as well: `evaluators={"colours": ColoursConfig()}` in its recipe. The same class in
`clippo/evaluation/colours.py` is found by its name in the `config.json` of that run.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from clippo.data.base import SourceConfig, Split
from clippo.data.decode import pixels_of, read_all
from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig, TransformConfig
from clippo.evaluation import suite
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.intervals import percent
from clippo.model import Clippo


@dataclass(frozen=True, kw_only=True)
class ColoursConfig(EvaluatorConfig):
    """Recall of pictures by their first texts, with and without colours.

    Attributes:
        split: the pictures.
        max_letters: pictures with longer texts are left out.
    """

    name: ClassVar[str] = "colours"
    split: Split = "held_out"
    max_letters: int = 16

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> "Colours":
        examples = read_all(data.build(self.split, image_size=image_size))
        examples = [e for e in examples if len(e.captions[0].text) <= self.max_letters]
        place = transform.build(image_size)
        images = np.stack([place(pixels_of(example)) for example in examples])
        return Colours(images, [example.captions[0].text for example in examples])


class Colours(Evaluator):
    """Recall at rank 1, "R@1" in percent, with its confidence interval.

    Args:
        images: (N, S, S, 3) uint8.
        texts: the N texts by which they are looked for.
    """

    def __init__(self, images: np.ndarray, texts: list[str]) -> None:
        self.images, self.texts = images, texts

    def __call__(self, model: Clippo) -> Metrics:
        z_texts = model.encode_text(self.texts)
        grey = self.images.mean(axis=3, keepdims=True).astype(np.uint8)
        metrics: Metrics = {"chance/R@1": 100 / len(self.texts)}
        for name, images in (("coloured", self.images), ("grey", grey)):
            found = (z_texts @ model.encode_image(images).T).argmax(dim=1)
            metrics[f"{name}/R@1"] = percent((found == torch.arange(len(found))).numpy())
        return metrics


def main() -> None:
    model = Clippo.from_pretrained("clippo-dictionary").eval()
    emoji = EmojiConfig(languages=("en",))
    colours = ColoursConfig(split="all").build(emoji, PlaceConfig(), model.config.image_size)
    print(suite.table(suite.evaluate(model, {"colours": colours})))


if __name__ == "__main__":
    main()
