"""Adafactor as big_vision has it, with which the published models were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Adafactor", "View"]

View = Callable[[Tensor], Tensor]  # of a tensor, in the shape that big_vision gives it

MIN_FACTORED = 32  # the second largest dimension of tensors whose second moment is factored
MAX_DECAY, DECAY_POWER = 0.999, 0.8
EPS = 1e-30


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern, arXiv 1804.04235) as in "Scaling Vision Transformers" (arXiv 2106.04560).

    The second moment of a tensor is kept as its means over its two largest dimensions, without clipping of
    the update and without scaling by the size of the parameter. Momentum is kept in bfloat16 and not
    corrected for its start. The decay of weights follows the schedule alone, not the learning rate.

    A group has, beside "lr", the "factor" of the schedule, from 0 to 1, which the trainer sets.

    Args:
        groups: dictionaries of "params" and "weight_decay".
        views: of each parameter the views that are factored apart. The published code has the heads as a
            dimension of their own and queries, keys and values as tensors of their own; which dimensions are
            the largest depends on that.
        momentum: decay of the mean of the update.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        views: Mapping[Tensor, Sequence[View]],
        *,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "factor": 0.0, "weight_decay": 0.0})
        self.views = views
        self.momentum = momentum
        # JAX rounds the factor on a bfloat16 tensor to bfloat16 as well: 0.9 is 0.8984375.
        self.rounded_momentum = torch.tensor(momentum, dtype=torch.bfloat16).item()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():  # PyTorch has converted all to the dtype of the parameter
            for name in state:
                if name.endswith(".momentum"):
                    state[name] = state[name].bfloat16()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found_inf = getattr(self, "found_inf", torch.zeros(()))
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, views = self.state[parameter], self.views[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    for number, view in enumerate(views):
                        state |= initial_state(view(parameter), number)
                is_good = (found_inf == 0).to(parameter.device)
                state["step"] += is_good
                for number, view in enumerate(views):
                    self.update(view(parameter), view(parameter.grad), state, number, group, is_good)

    def update(
        self,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Any],
        number: int,
        group: dict[str, Any],
        is_good: Tensor,
    ) -> None:
        """Update a view of a parameter and its part of the state, if the step is good."""
        grad = grad.masked_fill(~is_good, 0.0).float()
        decay = (1 - state["step"].clamp(min=1) ** -DECAY_POWER).clamp(max=MAX_DECAY)
        decay = decay.masked_fill(~is_good, 1.0)  # which leaves the moments as they are
        square = grad.square() + EPS
        dims = factored_dims(weight.shape)
        if dims is None:
            moment = state[f"{number}.moment"]
            moment.mul_(decay).add_(square * (1 - decay))
            scaled = grad * moment.rsqrt()
        else:
            largest, second = dims
            row, column = state[f"{number}.row"], state[f"{number}.column"]
            row.mul_(decay).add_(square.mean(largest, keepdim=True) * (1 - decay))
            column.mul_(decay).add_(square.mean(second, keepdim=True) * (1 - decay))
            scaled = grad * (row / row.mean(second, keepdim=True)).rsqrt() * column.rsqrt()
        momentum = state[f"{number}.momentum"]
        mean = (1 - self.momentum) * scaled + self.rounded_momentum * momentum
        momentum.copy_(torch.where(is_good, mean, momentum))
        change = group["lr"] * mean + group["weight_decay"] * group["factor"] * weight
        weight.sub_(change.masked_fill(~is_good, 0.0))


def factored_dims(shape: torch.Size) -> tuple[int, int] | None:
    """The largest and the second largest dimension of a tensor that is factored; of equal ones the later is
    the largest.
    """
    order = sorted(range(len(shape)), key=lambda dim: shape[dim])
    return (order[-1], order[-2]) if len(shape) > 1 and shape[order[-2]] >= MIN_FACTORED else None


def initial_state(weight: Tensor, number: int) -> dict[str, Tensor]:
    """The state of a view of a parameter."""
    state = {
        "momentum": torch.zeros_like(weight, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    }
    dims = factored_dims(weight.shape)
    shapes = {"moment": weight.shape}
    if dims is not None:
        largest, second = dims
        shapes = {
            "row": torch.Size(1 if dim == largest else n for dim, n in enumerate(weight.shape)),
            "column": torch.Size(1 if dim == second else n for dim, n in enumerate(weight.shape)),
        }
    for name, shape in shapes.items():
        state[name] = torch.zeros(shape, dtype=torch.float32, device=weight.device)
    return {f"{number}.{name}": value for name, value in state.items()}
