"""A Clippo as the encoder that MTEB (arXiv 2210.07316) and MIEB (arXiv 2504.10471) measure.

    mteb.evaluate(MtebEncoder(clippo, "somebody/clippo"), mteb.get_tasks(["STS12", "CIFAR10ZeroShot"]))

MTEB is not needed before it asks for `mteb_model_meta`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from clippo.errors import UserError
from clippo.model.clippo import Clippo

__all__ = ["MtebEncoder"]

Fusion = Literal["drawn", "sum"]


class MtebEncoder:
    """The `EncoderProtocol` of mteb 2: text, images, or images with a text each, to embeddings.

    Args:
        clippo: the model.
        model_name: "organization/model", under which MTEB keeps the results.
        revision: tells versions of the model apart, since MTEB does not measure one twice; by default the
            checksum of the weights.
        fusion: how an image and its text become one embedding: the text is "drawn" into the image, as CLIPPO
            reads a question, or the "sum" of two embeddings is taken, as of models that cannot do this.

    Raises:
        UserError: a name without an organization, or another fusion.
    """

    def __init__(
        self,
        clippo: Clippo,
        model_name: str = "clippo/clippo",
        revision: str | None = None,
        *,
        fusion: Fusion = "drawn",
    ) -> None:
        if model_name.count("/") != 1:
            raise UserError(f'model_name must be "organization/model", got {model_name!r}')
        if fusion not in get_args(Fusion):
            raise UserError(f"fusion must be one of {', '.join(get_args(Fusion))}, got {fusion!r}")
        self.clippo = clippo
        self.model_name = model_name
        self.revision = clippo.weights_sha256() if revision is None else revision
        self.fusion = fusion

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed batches of N inputs in all: (N, E) float32 of unit length, or sums of two such.

        Args:
            inputs: batches with "text", strings, or "image", PIL images, or both; other columns are ignored.
            task_metadata, hf_split, hf_subset, prompt_type: not used: a CLIPPO knows no instructions.
            show_progress_bar: show a bar on a terminal.
            kwargs: not used, such as the size of the batches, which are made already.

        Raises:
            UserError: a batch with neither.
        """
        bar = tqdm(
            inputs, desc="embed", unit="batch", leave=False, disable=None if show_progress_bar else True
        )
        parts = [self.embed(batch).cpu().numpy() for batch in bar]
        return np.concatenate([np.zeros((0, self.clippo.config.embed_dim), np.float32), *parts])

    def embed(self, batch: Mapping[str, Any]) -> Tensor:
        """Embed one batch of `encode`."""
        match batch:
            case {"image": images, "text": texts} if self.fusion == "drawn":
                return self.clippo.encode_image_text(images, texts)
            case {"image": images, "text": texts}:
                return self.clippo.encode_image(images) + self.clippo.encode_text(texts)
            case {"image": images}:
                return self.clippo.encode_image(images)
            case {"text": texts}:
                return self.clippo.encode_text(texts)
        raise UserError(f"a batch must have text or image, got {', '.join(batch) or 'nothing'}")

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine similarities (N, M) of (N, E) and (M, E) embeddings; one embedding may be (E,)."""
        first, second = unit_length(embeddings1), unit_length(embeddings2)
        return first.reshape(-1, first.shape[-1]) @ second.reshape(-1, second.shape[-1]).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine similarities (N,) of (N, E) and (N, E) embeddings."""
        return (unit_length(embeddings1) * unit_length(embeddings2)).sum(-1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What MTEB writes down about the model, a `mteb.models.ModelMeta`; MTEB may set another.

        Raises:
            ImportError: mteb is not installed.
        """
        parameters = list(self.clippo.parameters())
        num_bytes = sum(parameter.nbytes for parameter in parameters)
        return import_module("mteb.models.model_meta").ModelMeta(
            loader=None,
            name=self.model_name,
            revision=self.revision,
            release_date=None,
            languages=None,
            n_parameters=sum(parameter.numel() for parameter in parameters),
            memory_usage_mb=round(num_bytes / 2**20),
            max_tokens=self.clippo.text_input.max_tokens,
            embed_dim=self.clippo.config.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
            modalities=["image", "text"],
            # MTEB keeps the results of what is no default apart.
            experiment_kwargs=None if self.fusion == "drawn" else {"fusion": self.fusion},
        )


def unit_length(embeddings: Any) -> Tensor:
    return F.normalize(torch.as_tensor(embeddings).float(), dim=-1)
