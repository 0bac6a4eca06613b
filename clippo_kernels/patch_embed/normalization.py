"""Folding of the normalisation of pixels into the product with the weight."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Normalization", "fold"]

Triple = tuple[float, float, float]


class Normalization(NamedTuple):
    """Constants that replace `(x / unit - mean) / std` in a product; unit is 255 for bytes, else 1.

    The product is computed with pixels p, which are `x - 128` for bytes x and `(x - mean) / std` for floating
    x, with the `mean` and `std` of this class. Bytes are exact, and floating pixels are rounded no more than
    in plain arithmetic. The average of p is near 0, so that no token or gradient is a small difference of
    large sums. Then

        sum_c weight_c (x_c / unit - mean_c) / std_c  =  scale sum_c factor_c weight_c p_c
                                                         + sum_c shift_c weight_c

    where the factors are multiplied into the weight before it is rounded (they are 1 if all channels have the
    same std), and the scale and the shifts are applied in float32.
    """

    mean: Triple
    std: Triple
    scale: float
    factors: Triple
    shifts: Triple

    @property
    def changes_pixels(self) -> bool:
        return self.mean != (0, 0, 0) or self.std != (1, 1, 1)


def fold(mean: Sequence[float], std: Sequence[float], *, of_bytes: bool, channels: int) -> Normalization:
    """Constants for images of 1 or 3 `channels`, from mean and std of the three channels of the weight."""
    identity = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if channels == 3 and not of_bytes:
        return Normalization(triple(mean), triple(std), 1.0, identity[1], identity[0])
    # A grey pixel is one number for three channels, and bytes stay integers. The normalisation of the first
    # channel is therefore factored out of the sum, and the factors and shifts correct for the other channels.
    factors = triple(std[0] / s for s in std)
    if of_bytes:
        shifts = triple((128 / 255 - m) / s for m, s in zip(mean, std, strict=True))
        return Normalization(*identity, 1 / (255 * std[0]), factors, shifts)
    shifts = triple((mean[0] - m) / s for m, s in zip(mean, std, strict=True))
    return Normalization(triple([mean[0]] * 3), triple([std[0]] * 3), 1.0, factors, shifts)


def triple(values: Iterable[float]) -> Triple:
    first, second, third = values
    return first, second, third
