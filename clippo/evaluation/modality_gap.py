"""The modality gap: images and texts lie apart in the space of embeddings that they share.

Contrastive models put images and texts into two cones, even where each text is near to its image (Liang et
al., arXiv 2203.02053). Measured are the distance of the two means, how well the modalities can be told apart,
and what remains once the mean of each modality is subtracted, which closes the gap by definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from clippo.data.base import Example, Source, SourceConfig, Split
from clippo.data.decode import read_all
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_images, embed_texts
from clippo.evaluation.examples import main_text, sample
from clippo.evaluation.figures import new_figure, picture_of
from clippo.evaluation.intervals import bootstrap, mean_estimate, percent
from clippo.model import Clippo

__all__ = ["ModalityGapConfig"]

MIN_PAIRS = 20  # also in a language
MAX_PAIRS = 1000
MAX_TEXTS_OF_LANGUAGE = 200
MAX_LINES = 150  # between pairs in the picture
RIDGE = 0.01  # of the classifier, relative to the mean variance of a feature
IMAGE_COLOUR, TEXT_COLOUR = "C1", "C0"


@dataclass(frozen=True, kw_only=True)
class ModalityGapConfig(EvaluatorConfig):
    """Distance between the embeddings of images and of texts, and whether it matters to retrieval.

    Attributes:
        split: the examples that are measured, at most 1,000 of them.
        data: look at this source, and not at the one that the run trains on.
    """

    name: ClassVar[str] = "modality_gap"
    split: Split = "held_out"
    data: SourceConfig | None = None

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> ModalityGap:
        source = (self.data or data).build(self.split, image_size=image_size)
        return ModalityGap(source, transform.build(image_size))


class ModalityGap(Evaluator):
    """Measures of the embeddings of N images and of their texts, all of unit length.

    The text of an image is its first in English, or its first.

    - "gap": norm of the difference between the mean image and the mean text, from 0 to 2. "chance/gap" is the
      root mean square of what is reached if the sides of every pair are swapped at random.
    - "linear/accuracy": accuracy in percent of a linear classifier that tells images from texts, trained on
      one half of the pairs and tested on the other.
    - "nearest/accuracy": how often the nearest neighbour of an embedding, its own partner aside, is of its
      own modality, in percent. It is 50 if images and texts have one distribution (Schilling 1986), and finds
      differences that no linear classifier does.
    - "alignment": mean squared distance of the pairs. "images/uniformity" and "texts/uniformity": logarithm
      of the mean of exp(-2 d^2) over all distances d within a modality (Wang and Isola, arXiv 2005.10242). Of
      both, less is better.
    - "text_to_image/R@1" and "image_to_text/R@1": recall among the N pairs; ties count against the model.

    All but the first two come again as "centred/...": the mean of each modality is subtracted, and the
    embeddings are normalised anew. The linear classifier does not, because least squares finds nothing in two
    classes of one mean.

    For each language, "de/gap" is the gap between the texts in that language and their images, and
    "de/gap_to_en" the one between its texts and those of the same examples in the main language, which is
    English where there is any. Both are of at most 200 texts.

    Args:
        source: examples; those whose text an earlier one has are left out. Of more than 1,000, so many are
            drawn. Of these, pairs of texts and what cannot be read are left out.
        transform: turns images into pixels.

    Raises:
        UserError: fewer than 20 images.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "gap": "chance/gap",
        "linear/accuracy": "chance/accuracy",
        "nearest/accuracy": "chance/accuracy",
        "text_to_image/R@1": "chance/R@1",
        "centred/text_to_image/R@1": "chance/R@1",
    }

    def __init__(self, source: Source, transform: Transform) -> None:
        self.source = source
        self.transform = transform
        backwards = reversed(range(len(source)))  # so that the first example of a text stays
        different = list({main_text(source.described(row)).text: row for row in backwards}.values())
        read = read_all(source, sample(different, MAX_PAIRS))
        self.examples = [example for example in read if example.image is not None]
        found = len(self.examples)
        if found < MIN_PAIRS:
            raise UserError(
                f"modality_gap needs at least {MIN_PAIRS} images with different texts, got {found}"
            )

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __call__(self, model: Clippo) -> Metrics:
        images, texts = self.embed(model)
        N = len(images)
        metrics: Metrics = {
            "gap": gap_estimate(images, texts),
            "linear/accuracy": percent(separable(images, texts) / 100, pairs_of(N)),
            **compared(images, texts),
        }
        after = compared(centred(images), centred(texts), is_centred=True)
        metrics |= {f"centred/{name}": value for name, value in after.items()}
        metrics |= {"chance/gap": chance_gap(images, texts), "chance/accuracy": 50.0, "chance/R@1": 100 / N}
        return metrics | self.by_language(model, images)

    def embed(self, model: Clippo) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the images and of their texts, both (N, E) float64."""
        images = embed_images(model, self.examples, self.transform).double().numpy()
        return images, embed_texts(model, [main_text(example).text for example in self.examples])

    def by_language(self, model: Clippo, images: np.ndarray) -> Metrics:
        """The gaps of each language, from the images and from the texts in the main language."""
        languages = texts_by_language(self.examples)
        main = Counter(main_text(example).language for example in self.examples).most_common(1)[0][0]
        in_main = languages.get(main or "", {})
        rows_of_main, z_main = np.array(list(in_main), np.int64), embed_texts(model, list(in_main.values()))
        metrics: Metrics = {}
        for language, texts in languages.items():
            rows = np.array(list(texts)[:MAX_TEXTS_OF_LANGUAGE])
            z = embed_texts(model, [texts[row] for row in rows.tolist()])
            metrics[f"{language}/gap"] = gap_estimate(images[rows], z)
            metrics[f"{language}/chance/gap"] = chance_gap(images[rows], z)
            _, own, partner = np.intersect1d(rows, rows_of_main, return_indices=True)
            if language != main and len(own) >= MIN_PAIRS:
                metrics[f"{language}/gap_to_{main}"] = gap_estimate(z[own], z_main[partner])
        return metrics

    def picture(self, model: Clippo) -> Image.Image:
        """The first two principal components of all embeddings, as they are and centred."""
        images, texts = self.embed(model)
        figure = new_figure(1200, 600)
        gap = np.linalg.norm(images.mean(0) - texts.mean(0))
        panels = {
            f"embeddings, gap {gap:.2f}": (images, texts),
            "mean of each modality subtracted": (centred(images), centred(texts)),
        }
        for ax, (title, both) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            points, shares = principal_components(np.concatenate(both))
            x, y = np.split(points, 2)
            # One line with gaps is drawn faster than many lines.
            lines = np.stack([x, y, np.full_like(x, np.nan)], axis=1)[:MAX_LINES].reshape(-1, 2)
            ax.plot(*lines.T, color="0.75", linewidth=0.5, zorder=0)
            ax.scatter(*x.T, s=8, color=IMAGE_COLOUR, label="images")
            ax.scatter(*y.T, s=8, color=TEXT_COLOUR, label="texts")
            ax.set_title(title)
            ax.set_xlabel(f"first principal component, {shares[0]:.0f} % of the variance")
            ax.set_ylabel(f"second, {shares[1]:.0f} %")
            ax.set_aspect("equal", adjustable="datalim")
            ax.legend()
        return picture_of(figure)


def texts_by_language(examples: Sequence[Example]) -> dict[str, dict[int, str]]:
    """The first text of each example in each language that at least 20 have, by the number of the example."""
    found: dict[str, dict[int, str]] = {}
    for number, example in enumerate(examples):
        for text in example.texts:
            if text.language is not None:
                found.setdefault(text.language, {}).setdefault(number, text.text)
    return {language: texts for language, texts in found.items() if len(texts) >= MIN_PAIRS}


def gap_estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Norm of the difference of the means of (N, E) embeddings and of their partners, (N, E).

    The interval is that of the differences along their mean. The norms of resamples would not do: noise makes
    them longer, so that they lie above the value itself where the gap is small.
    """
    difference = x - y
    mean = difference.mean(0)
    return mean_estimate(difference @ (mean / max(float(np.linalg.norm(mean)), 1e-12)))


def chance_gap(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square of the gap if the sides of each pair are swapped at random.

    The differences d then have random signs, so that the expected square of the norm of their mean is the sum
    of their squared norms, divided by N^2.
    """
    return float(np.sqrt(((x - y) ** 2).sum()) / len(x))


def centred(x: np.ndarray) -> np.ndarray:
    """Subtract the mean of (N, E) embeddings, and give them unit length again."""
    moved = x - x.mean(0)
    out: np.ndarray = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return out


def compared(images: np.ndarray, texts: np.ndarray, *, is_centred: bool = False) -> Metrics:
    """The measures of `ModalityGap` that exist with and without centring."""
    scores = same_modality(images, texts, is_centred=is_centred)
    return {
        "nearest/accuracy": percent(scores / 100, pairs_of(len(images))),
        "alignment": mean_estimate(((images - texts) ** 2).sum(1)),
        "images/uniformity": uniformity(images),
        "texts/uniformity": uniformity(texts),
        "text_to_image/R@1": percent(is_nearest(texts, images)),
        "image_to_text/R@1": percent(is_nearest(images, texts)),
    }


def pairs_of(N: int) -> np.ndarray:
    """(2 N,) the number of the pair of each of N images followed by N texts."""
    return np.tile(np.arange(N), 2)


def is_nearest(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(N,) bool, whether the candidate of the same row is nearer to a query than all others."""
    similarity = queries @ candidates.T
    own = similarity.diagonal()[:, None]
    return np.asarray((similarity < own).sum(1) == len(queries) - 1)


def same_modality(images: np.ndarray, texts: np.ndarray, *, is_centred: bool = False) -> np.ndarray:
    """(2 N,) of images and of texts: 100 where the nearest neighbour has the same modality, 50 in a tie.

    The mean similarity of different rows is 0 in independent samples, but rows that sum to zero have one of
    -1 / (N - 1). Without a correction it would hide neighbours of the own modality in centred embeddings.
    """
    within_images, within_texts, between = (
        off_diagonal(a @ b.T, is_centred) for a, b in ((images, images), (texts, texts), (images, texts))
    )
    scores = [
        50 + 50 * np.sign(own.max(1) - other.max(1))
        for own, other in ((within_images, between), (within_texts, between.T))
    ]
    return np.concatenate(scores)


def off_diagonal(similarity: np.ndarray, is_centred: bool) -> np.ndarray:
    """Similarities (N, N) with a diagonal of -inf, and less the mean of the others if they are centred."""
    N = len(similarity)
    mean = (similarity.sum() - similarity.trace()) / (N * (N - 1)) if is_centred else 0.0
    out: np.ndarray = similarity - mean
    np.fill_diagonal(out, -np.inf)
    return out


def separable(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(2 N,) of images and of texts: 100 where a linear classifier tells the modality, 50 if it is undecided.

    The classifier is a ridge regression of the modality, 1 or -1, on the embeddings. The pairs of even number
    are predicted by one that was fitted on the others, and the other way round.
    """
    scores = np.empty((2, len(images)))
    for part in (0, 1):
        x, y = images[1 - part :: 2], texts[1 - part :: 2]
        mean = (x.mean(0) + y.mean(0)) / 2
        both = np.concatenate([x, y]) - mean
        covariance = both.T @ both / len(both)
        ridge = RIDGE * covariance.trace() / len(covariance) + 1e-12
        weight = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), (x.mean(0) - y.mean(0)) / 2)
        for side, (z, label) in enumerate(((images, 1), (texts, -1))):
            scores[side, part::2] = 50 + 50 * np.sign(label * ((z[part::2] - mean) @ weight))
    return scores.reshape(-1)


def uniformity(x: np.ndarray) -> Estimate:
    """Logarithm of the mean of exp(-2 d^2) over the distances d between different rows of unit length."""
    kernel = np.exp(4 * (x @ x.T).clip(-1, 1) - 4)  # d^2 is 2 - 2 cos

    def statistic(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=len(x)).astype(np.float64)
        # A row that was drawn twice is no pair of different rows.
        squares = times @ times
        own = (times**2) @ kernel.diagonal()
        return float(np.log((times @ kernel @ times - own) / (times.sum() ** 2 - squares)))

    return bootstrap(statistic, np.arange(len(x)))


def principal_components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 2) of rows (N, E) on their first two principal components, and their variance in %."""
    moved = x - x.mean(0)
    variances, axes = np.linalg.eigh(moved.T @ moved)
    variances, axes = variances[::-1], axes[:, :-3:-1]
    # An axis has no sign of its own; the largest weight is made positive.
    signs = np.sign(np.take_along_axis(axes, abs(axes).argmax(0)[None], axis=0))
    return moved @ (axes * signs), 100 * variances[:2] / max(variances.sum(), 1e-12)
