"""Character n-grams: what can be told of a text by which letters it has, as a baseline of models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clippo.evaluation.text_tasks import Part

__all__ = ["hashed_ngrams", "ngram_features"]

LONGEST = 4  # characters
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # spreads codes over 64 bits, whose highest are a good hash


def ngram_features(part: Part, bits: int = 12) -> np.ndarray:
    """Features of the texts, or of the pairs of texts, of a task.

    Args:
        part: N examples.
        bits: there are 2**bits features of a text; of a pair, as many of each text and of what both share.

    Returns:
        (N, D) float32.
    """
    first = hashed_ngrams(part.texts, bits)
    if not part.seconds:
        return first
    second = hashed_ngrams(part.seconds, bits)
    return np.concatenate([first, second, np.minimum(first, second)], axis=1)


def hashed_ngrams(texts: Sequence[str], bits: int) -> np.ndarray:
    """Square roots of the counts of n-grams of one to four characters, at length 1: (N, 2**bits) float32.

    Texts are in lower case and have a space at both ends. Each n-gram is counted at its hash.
    """
    counts = np.zeros((len(texts), 2**bits), np.float32)
    for row, text in enumerate(texts):
        encoded = f" {text.lower()} ".encode("utf-32-le", "surrogatepass")
        letters = np.frombuffer(encoded, np.uint32).astype(np.uint64)
        codes = np.zeros(len(letters) + 1, np.uint64)
        for length in range(1, LONGEST + 1):
            if len(letters) < length:
                break
            codes = (codes[:-1] + letters[length - 1 :] + np.uint64(1)) * MULTIPLIER
            np.add.at(counts[row], (codes >> np.uint64(64 - bits)).astype(np.int64), 1)
    np.sqrt(counts, out=counts)
    counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)
    return counts
