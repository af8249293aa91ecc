"""Muon for matrices and convolutions (Jordan et al. 2024), AdamW for all other parameters."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from torchmill.components.training.optimizers import Common, embeddings, last_layer

NEEDS_WHOLE_WEIGHTS = True
"""The step of a matrix depends on all of it, so that processes can't share it."""


def make(
    common: Common,
    *,
    momentum: float = 0.95,
    ns_steps: int = 5,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> "Muon":
    weights = [weight for group in common.groups for weight in group["params"]]
    not_muons = embeddings(common.network) | last_layer(common.network)
    return Muon(
        common.groups,
        common.lr,
        {id(weight) for weight in weights if weight.dim() > 1} - not_muons,
        weight_decay=common.weight_decay,
        momentum=momentum,
        ns_steps=ns_steps,
        betas=betas,
        eps=eps,
        fused=common.fused,
    )


class Muon(Optimizer):
    """Orthogonalized momentum for matrices, AdamW for all other parameters.

    A convolution's weights count as a matrix with a row per output channel. Both parts are torch's own. Muon's step is
    scaled to the size of AdamW's (Liu et al. 2025), so that one learning rate suits both.

    Args:
        matrices: ids of the parameters that Muon updates.
        momentum, ns_steps: arguments of Muon.
        betas, eps, fused: arguments of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        matrices: set[int],
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = False,
    ):
        split = [
            {**group, "params": [weight for weight in group["params"] if (id(weight) in matrices) is of_muon]}
            for of_muon in (True, False)
            for group in groups
        ]
        super().__init__([group for group in split if group["params"]], {"lr": lr, "weight_decay": weight_decay})
        of_muon = [group for group in self.param_groups if id(group["params"][0]) in matrices]
        of_adamw = self.param_groups[len(of_muon) :]
        self.matrices = {weight: as_matrix(weight.detach()) for group in of_muon for weight in group["params"]}
        self.parts: dict[str, Optimizer] = {}
        if of_muon:
            flat = [{**group, "params": [self.matrices[weight] for weight in group["params"]]} for group in of_muon]
            self.parts["muon"] = torch.optim.Muon(
                flat, lr, momentum=momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw"
            )
        if of_adamw:
            self.parts["adamw"] = AdamW([dict(group) for group in of_adamw], lr, betas, eps, fused=fused)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters by their gradients."""
        inner_groups = [group for part in self.parts.values() for group in part.param_groups]
        for group, inner in zip(self.param_groups, inner_groups, strict=True):
            inner["lr"], inner["weight_decay"] = group["lr"], group["weight_decay"]
        for weight, matrix in self.matrices.items():
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad)
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        groups = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return {"groups": groups, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for group, saved in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(saved)
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


def as_matrix(values: Tensor) -> Tensor:
    """Return a view of weights (out, …) as (out, all other dimensions), in any memory format."""
    # The order of the columns doesn't matter to orthogonality.
    by_stride = sorted(range(1, values.dim()), key=lambda dimension: -values.stride(dimension))
    return values.permute(0, *by_stride).flatten(1)
