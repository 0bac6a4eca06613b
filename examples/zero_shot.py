"""Zero-shot classification by the model that comes with the package, in five lines.

    python examples/zero_shot.py

prints

    dog face: dog, 100 %
    strawberry: fraise, 84 %
    rocket: ракета, 100 %
    pizza: 比萨饼, 100 %
"""

import io

import torch
from PIL import Image

from clippo.index import PictureIndex
from clippo.model import Clippo

NAMES = ["dog", "fraise", "ракета", "比萨饼"]  # each in another language


def pictures(titles: list[str]) -> list[Image.Image]:
    """Pictures of the package by their English names."""
    index = PictureIndex.open("clippo-dictionary")
    ids = {index.entry(id).title: id for id in index.ids.tolist()}
    return [Image.open(io.BytesIO(index.thumbnail(ids[title]))) for title in titles]


def main() -> None:
    titles = ["dog face", "strawberry", "rocket", "pizza"]
    images = pictures(titles)

    model = Clippo.from_pretrained("clippo-dictionary").eval()
    z_images = model.encode_image(images)  # (4, 128), unit length
    z_names = model.encode_text(NAMES)  # (4, 128), by the same tower
    probabilities = (model.logit_scale.exp() * z_images @ z_names.T).softmax(dim=-1)
    best = probabilities.max(dim=-1)

    for title, probability, index in zip(titles, *map(torch.Tensor.tolist, best), strict=True):
        print(f"{title}: {NAMES[index]}, {100 * probability:.0f} %")


if __name__ == "__main__":
    main()
