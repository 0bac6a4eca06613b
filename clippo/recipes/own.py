"""A CLIPPO on pictures and texts of one's own."""

from __future__ import annotations

from clippo.data.base import SourceConfig
from clippo.data.transform import SquashConfig, TransformConfig
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.evaluation.zero_shot import ZeroShotConfig
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.model.checkpoints.big_vision import vit_sizes
from clippo.model.tower import TowerConfig
from clippo.renderer import AlignedRendererConfig, RendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdamWConfig
from clippo.training.run_folder import load_model, with_renderer

__all__ = ["recipe"]

# Sizes of the tower by the number of examples below which it is taken: width, depth, image size, batch size.
# The first is that of the emoji recipe with larger images, the last two are Ti/16 and B/16.
SIZES = ((20_000, 96, 3, 96, 128), (200_000, 192, 6, 128, 256), (2_000_000, 192, 12, 224, 1024))
LARGEST = (768, 12, 224, 4096)
EPOCHS, LEAST_STEPS, MOST_STEPS = 30, 1000, 200_000
LEAST_BATCH = 16  # no batch is larger than a quarter of the examples, if that is at least so many


def recipe(data: SourceConfig, init_from: str | None = None) -> TrainConfig:
    """A CLIPPO on pictures and texts of one's own.

    Command: `clippo train own --data folder:photos`; `--init-from` goes on from the weights of a CLIPPO, or
        of a ViT `.npz` such as those of AugReg.
    Hardware: the size of the tower follows from the number of examples. Up to 20,000 it trains in minutes to
        an hour on two cores; above 200,000 it wants a GPU.
    Result: depends on the data; recall on the examples that are held out, and zero-shot accuracy where they
        have labels, see docs/data.md.
    """
    count = len(data.build("train", image_size=64))
    sizes = (size[1:] for size in SIZES if count < size[0])
    width, depth, image_size, batch_size = next(sizes, LARGEST)
    model = ClippoConfig(
        width=width, depth=depth, mlp_dim=4 * width, num_heads=max(3, width // 64), patch_size=16,
        image_size=image_size, embed_dim=max(128, width), text=RenderedTextConfig(tokens="inked"),
        resize="bicubic",
    )  # fmt: skip
    renderer: RendererConfig = AlignedRendererConfig()
    transform: TransformConfig = SquashConfig(min_area=0.5)
    learning_rate = 1e-3
    if init_from is not None and (sizes_of_vit := sizes_if_vit(init_from)):
        # A classifier has never read text, and its head is new.
        model = ClippoConfig(**vars(sizes_of_vit), text=model.text, resize=model.resize)
        learning_rate = 1e-4
    elif (
        init_from is not None
    ):  # text is drawn, and pictures are resized, as the weights have learned to read
        begun = with_renderer(load_model(init_from))
        model = begun.config
        is_rendered = isinstance(model.text, RenderedTextConfig)
        renderer = getattr(begun.renderer, "config", renderer) if is_rendered else renderer
        transform = SquashConfig(min_area=0.5, resize=model.resize)
        learning_rate = 1e-5
    batch_size = min(count, batch_size, max(LEAST_BATCH, 2 ** (count // 4).bit_length() // 2))
    steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * count // batch_size))
    held_out = data.build("held_out", image_size=64)
    evaluators: dict[str, EvaluatorConfig] = {}
    if len(held_out):
        evaluators["held_out"] = RetrievalConfig(merge_equal_texts=True)
    if len({label for i in range(len(held_out)) for label in held_out.described(i).labels}) > 1:
        evaluators["zero_shot"] = ZeroShotConfig()
    return TrainConfig(
        model=model,
        renderer=renderer,
        data=data,
        transform=transform,
        loss=SoftmaxLossConfig(),
        optimizer=AdamWConfig(weight_decay=0.05, beta2=0.98),
        evaluators=evaluators,
        batch_size=batch_size,
        merge_equal_texts=True,
        steps=steps,
        learning_rate=learning_rate,
        warmup_steps=steps // 5,
        init_from=init_from,
        residual_scale=0.2 if init_from is None else 1.0,
    )


def sizes_if_vit(path: str) -> TowerConfig | None:
    """The sizes of a `.npz` that holds a ViT; None of a CLIPPO, and of what cannot be read."""
    if not path.endswith(".npz"):
        return None
    try:
        return vit_sizes(path)
    except (ValueError, OSError):  # of a CLIPPO all names begin with img/
        return None
