"""An optimizer of ours behind torch's interface: `param_groups`, schedulers of torch.optim, closures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.optim.base import GroupedOptimizer, Optimizer


class TorchInterface(torch.optim.Optimizer):
    """One of our optimizers as a torch.optim.Optimizer: for loops, schedulers and trainers written for torch.

    Each of our parameter groups is one of `param_groups`, with `lr` (`lr` times the group's
    `lr_scale`) and `weight_decay`; what is written there counts at the next step, so torch's
    schedulers work as they are. `state_dict()` holds our tensors by parameter name under "state".

    optimizer: what a spec builds, such as `AdamWConfig().build(model)` or `MuonConfig().build(model)`.
    lr: the learning rate, which our optimizers do not store.
    Raises UserError for an optimizer without groups and for a group that is added later.
    Tested against: torch.optim.AdamW and SGD under torch's schedulers; our own optimizer driven by hand.
    """

    def __init__(self, optimizer: Optimizer, *, lr: float) -> None:
        if not lr >= 0:
            raise UserError(f"lr = {lr} must be a number of at least 0")
        self.inner = optimizer
        # (one of ours, which of its groups), in the order of param_groups
        self._places = [
            (member, number)
            for member in members(optimizer)
            for number in range(len(member.groups))
        ]
        self._built = False
        super().__init__(
            [
                {
                    "params": list(member.groups[number].parameters.values()),
                    "lr": lr * member.groups[number].lr_scale,
                    "weight_decay": member.groups[number].weight_decay,
                }
                for member, number in self._places
            ],
            {},
        )
        self._built = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after construction: our optimizers are built over all their parameters at once."""
        if getattr(self, "_built", False):
            raise UserError(
                "no parameter group can be added to a built optimizer; build it over all parameters "
                "and freeze some with requires_grad_(False) until they are trained"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update at each group's own `lr` and `weight_decay`; the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for (member, number), settings in zip(self._places, self.param_groups, strict=True):
            member.groups[number] = replace(
                member.groups[number],
                lr_scale=float(settings["lr"]),
                weight_decay=float(settings["weight_decay"]),
            )
        self.inner.step(1.0)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """{"state": our tensors by name, "param_groups": settings, with the parameters' names}."""
        groups = [
            {key: value for key, value in settings.items() if key != "params"}
            | {"params": list(member.groups[number].parameters)}
            for (member, number), settings in zip(self._places, self.param_groups, strict=True)
        ]
        return {"state": self.inner.state_dict(), "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put state and settings back. Raises ValueError where parameters differ; then nothing was changed."""
        saved: list[dict[str, Any]] = state_dict["param_groups"]
        own = [list(member.groups[number].parameters) for member, number in self._places]
        theirs = [list(group["params"]) for group in saved]
        if own != theirs:
            differing = sorted({n for g in own for n in g} ^ {n for g in theirs for n in g})
            what = f"in '{differing[0]}'" if differing else "in how parameters are grouped"
            raise ValueError(f"the saved parameter groups and the optimizer's differ {what}")
        state: dict[str, Tensor] = state_dict["state"]
        self.inner.load_state_dict(state)
        for settings, group in zip(self.param_groups, saved, strict=True):
            settings.update({key: value for key, value in group.items() if key != "params"})


def members(optimizer: Optimizer) -> list[GroupedOptimizer]:
    """Those of ours that make up an optimizer, each with groups of its own."""
    parts = getattr(optimizer, "optimizers", None)
    if parts is not None:
        return [member for part in parts for member in members(part)]
    if not isinstance(optimizer, GroupedOptimizer):
        raise UserError(
            f"{type(optimizer).__name__} keeps no parameter groups; derive it from GroupedOptimizer"
        )
    return [optimizer]
