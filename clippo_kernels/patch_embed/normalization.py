"""How the normalisation of pixels is folded into the product with the weight."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Triple = tuple[float, float, float]


class Normalization(NamedTuple):
    """What stands for `(x / unit - mean) / std` inside of a product, where unit is 255 for bytes.

    The product is taken of pixels p, which are `x - 128` of bytes x and `(x - mean) / std` of floating ones,
    with the `mean` and `std` of this class. Both are exact or rounded as little as plain arithmetic rounds;
    and p is near 0 on average, so that no token or gradient is the small difference of large sums. Then

        sum_c weight_c (x_c / unit - mean_c) / std_c  =  scale sum_c factor_c weight_c p_c
                                                         + sum_c shift_c weight_c

    with the factors rounded into the weight (they are 1 where the channels have one std), and scale and
    shifts applied in float32.
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
    """For images of 1 or 3 `channels`, from the mean and std of each of the three channels of the weight."""
    identity = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if channels == 3 and not of_bytes:
        return Normalization(triple(mean), triple(std), 1.0, identity[1], identity[0])
    # A grey pixel is one number for three channels, and bytes stay integers: the first channel's
    # normalisation is taken out of the sum, and the weight makes up for the others.
    factors = triple(std[0] / s for s in std)
    if of_bytes:
        shifts = triple((128 / 255 - m) / s for m, s in zip(mean, std, strict=True))
        return Normalization(*identity, 1 / (255 * std[0]), factors, shifts)
    shifts = triple((mean[0] - m) / s for m, s in zip(mean, std, strict=True))
    return Normalization(triple([mean[0]] * 3), triple([std[0]] * 3), 1.0, factors, shifts)


def triple(values: Iterable[float]) -> Triple:
    first, second, third = values
    return first, second, third
