"""Character n-grams: what can be told of a text by which letters it has, as a baseline of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from clippo.evaluation.probes import Predictor
from clippo.evaluation.text_tasks import Part

__all__ = ["Bag", "TfIdf", "bags_of", "cosines", "kernel_ridge", "ngrams"]

LONGEST = 4  # characters
BITS = 16
SIZE = 2**BITS  # hashes of n-grams
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # spreads codes over 64 bits, whose highest are a good hash
BLOCK = 256  # texts that are compared with all others at a time


class Bag(NamedTuple):
    """The features of a text, in ascending order, and their counts."""

    features: np.ndarray
    counts: np.ndarray


class Vectors(NamedTuple):
    """N sparse vectors of length 1: the row, feature and value of each entry, the rows ascending."""

    rows: np.ndarray
    features: np.ndarray
    values: np.ndarray
    N: int


def ngrams(text: str) -> Bag:
    """Hashes of the n-grams of one to four characters of a text in lower case, with a space at both ends."""
    encoded = f" {text.lower()} ".encode("utf-32-le", "surrogatepass")
    letters = np.frombuffer(encoded, np.uint32).astype(np.uint64)
    codes, hashes = np.zeros(len(letters) + 1, np.uint64), []
    for length in range(1, min(LONGEST, len(letters)) + 1):
        codes = (codes[:-1] + letters[length - 1 :] + np.uint64(1)) * MULTIPLIER
        # Codes are linear in the letters; without the fold, n-grams of regular texts often collide.
        mixed = (codes ^ (codes >> np.uint64(32))) * MULTIPLIER
        hashes.append((mixed >> np.uint64(64 - BITS)).astype(np.int64))
    return Bag(*np.unique(np.concatenate(hashes), return_counts=True))


def bags_of(part: Part) -> list[Bag]:
    """The n-grams of each example; of a pair those of either text, and again those that both have."""
    bags = [ngrams(text) for text in part.texts]
    if not part.seconds:
        return bags
    return [paired(first, ngrams(second)) for first, second in zip(bags, part.seconds, strict=True)]


def paired(first: Bag, second: Bag) -> Bag:
    shared, a, b = np.intersect1d(first.features, second.features, return_indices=True)
    common = np.minimum(first.counts[a], second.counts[b])
    features = np.concatenate([first.features, SIZE + second.features, 2 * SIZE + shared])
    return Bag(features, np.concatenate([first.counts, second.counts, common]))


class TfIdf:
    """Turns bags into vectors, (1 + log count) * (1 + log((1 + N) / (1 + df))), at length 1.

    Args:
        bags: of N texts, of which df have a feature.
    """

    def __init__(self, bags: Sequence[Bag]) -> None:
        df = np.bincount(np.concatenate([bag.features for bag in bags]), minlength=3 * SIZE)
        self.idf = 1 + np.log((1 + len(bags)) / (1 + df))

    def __call__(self, bags: Sequence[Bag]) -> Vectors:
        rows = np.repeat(np.arange(len(bags)), [len(bag.features) for bag in bags])
        features = np.concatenate([bag.features for bag in bags])
        values = (1 + np.log(np.concatenate([bag.counts for bag in bags]))) * self.idf[features]
        values /= np.sqrt(np.bincount(rows, weights=values**2))[rows]
        return Vectors(rows, features, values, len(bags))


def cosines(first: Vectors, second: Vectors) -> np.ndarray:
    """The cosine of each of N vectors with each of M others: (N, M) float64."""
    indices = torch.from_numpy(np.stack([first.rows, first.features]))
    values = torch.from_numpy(first.values.astype(np.float32))
    size = 1 + int(max(first.features.max(), second.features.max()))
    sparse = torch.sparse_coo_tensor(indices, values, (first.N, size), check_invariants=False)
    found = []
    for start in range(0, second.N, BLOCK):
        count = min(BLOCK, second.N - start)
        entries = slice(*np.searchsorted(second.rows, [start, start + count]))
        dense = torch.zeros(size, count)
        dense[second.features[entries], second.rows[entries] - start] = torch.from_numpy(
            second.values[entries].astype(np.float32)
        )
        found.append(torch.sparse.mm(sparse, dense))
    out: np.ndarray = torch.cat(found, dim=1).double().numpy()
    return out


def kernel_ridge(similarity: np.ndarray, targets: np.ndarray, *, l2: float) -> Predictor:
    """Fit a ridge regression on vectors that are given by their cosines.

    Args:
        similarity: (N, N) of the examples to fit.
        targets: (N,) or (N, T).
        l2: factor of the squared weights, above 0.

    Returns:
        A predictor of targets, (M,) or (M, T), for cosines (M, N) with the examples that were fitted.
    """
    mean = targets.mean(0)
    weights = np.linalg.solve(similarity + l2 * np.eye(len(similarity)), targets - mean)
    return lambda similarity: np.asarray(similarity) @ weights + mean
