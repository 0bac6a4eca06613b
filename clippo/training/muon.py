"""Muon for the matrices inside of the blocks, and AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) beside AdamW, both PyTorch's.

    Muon makes the mean of the gradient of a matrix orthogonal, by five Newton-Schulz iterations in bfloat16.
    The step is scaled to the root mean square of a step of AdamW (Moonlight, arXiv 2502.16982), so that both
    take the same learning rate and decay.

    Args:
        groups: dictionaries of "params" and "weight_decay".
        matrices: of each parameter that Muon updates, how many matrices are stacked in its first dimension.
            Each is made orthogonal by itself: queries, keys and values are layers of their own.
        momentum: decay of Muon's mean of the gradient.
        betas: decays of AdamW's means of the gradient and of its square.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        matrices: Mapping[Tensor, int],
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        # Both get their parameters and state in each step, but cannot be made without a parameter.
        nothing = [torch.empty(0, 0)]
        self.muon = torch.optim.Muon(nothing, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        # Fused kernels honour `found_inf`; there are none for the meta tensors of a dry run.
        is_fused = not groups[0]["params"][0].is_meta
        self.adamw = torch.optim.AdamW(nothing, betas=betas, fused=is_fused)
        super().__init__(groups, self.adamw.defaults | {"lr": 0.0})
        self.matrices = matrices

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found_inf = getattr(self, "found_inf", torch.zeros(()))
        others = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.matrices and parameter.grad is not None:
                    self.update_matrix(parameter, group, (found_inf == 0).to(parameter.device))
            rest = [parameter for parameter in group["params"] if parameter not in self.matrices]
            others.append({**group, "params": rest})
        self.adamw.state, self.adamw.param_groups = self.state, others
        if self.adamw.defaults["fused"]:
            self.adamw.found_inf = found_inf  # type: ignore[attr-defined]
        self.adamw.step()

    def update_matrix(self, parameter: Tensor, group: dict[str, Any], is_good: Tensor) -> None:
        """Take a step of Muon with copies of a parameter and its state, and keep them if the step is good."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        new = {name: value.clone() for name, value in [("weight", parameter), *state.items()]}
        new["step"] += 1
        count = self.matrices[parameter]
        weights = new["weight"].chunk(count)
        self.muon.state.clear()
        for weight, grad, momentum in zip(
            weights, parameter.grad.chunk(count), new["momentum_buffer"].chunk(count), strict=True
        ):
            weight.grad = grad
            self.muon.state[weight] = {"momentum_buffer": momentum}
        own = {"params": weights, "lr": group["lr"], "weight_decay": group["weight_decay"]}
        self.muon.param_groups = [self.muon.defaults | own]
        self.muon.step()
        for name, kept in [("weight", parameter), *state.items()]:
            kept.copy_(torch.where(is_good, new[name], kept))
