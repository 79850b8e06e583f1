"""Find the batch at which a loss stopped being finite, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.errors import FinetuneError

CHECK_EVERY = 50
"""Steps between two checks; an epoch's last step checks too. As often as Lightning's loggers read a loss."""


class FiniteLoss:
    """Remembers, on the device, the first batch whose loss was not finite.

    Reading a loss on the host would make it wait for the device in every step. So the batch's index is kept in a tensor
    beside the loss, and read only when :meth:`check` is called.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._rates: dict[int, list[float | Tensor]] = {}

    def watch(self, loss: Tensor, batch_idx: int, rates: list[float | Tensor]) -> None:
        """Note the loss of a batch and the learning rates of its step; reads nothing back."""
        self._rates[batch_idx] = rates
        this = torch.where(torch.isfinite(loss.detach()).all(), -1, batch_idx)
        self._first = this if self._first is None else torch.where(self._first < 0, this, self._first)

    def check(self, when: Callable[[], str]) -> None:
        """Raise if any loss since the last check was not finite.

        Args:
            when: Names epoch and phase, for the message.

        Raises:
            FinetuneError: Names the first such batch and its learning rates.
        """
        first = -1 if self._first is None else int(self._first)
        rates, self._rates, self._first = self._rates, {}, None
        if first < 0:
            return
        lrs = [float(rate) for rate in rates[first]]
        spread = " to ".join(f"{lr:.3g}" for lr in dict.fromkeys((min(lrs), max(lrs))))
        raise FinetuneError(
            f"Expected a finite loss, got NaN or infinity in batch {first} of {when()}, at learning rate {spread}. "
            "Lower the learning rate, clip gradients (gradient_clip_val=1.0), train with precision='bf16-mixed' in "
            "place of '16-mixed', or look for images and labels that are not finite in that batch."
        )


def place_of(task: LightningModule) -> str:
    """The epoch of a run, its phase and what trains, in words."""
    groups = layer_groups(task, only=task.parameters())
    trained = [group.name for group in groups if any(param.requires_grad for param in group.params)]
    callbacks: Any = task.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    plans = [callback.plan_of_run for callback in callbacks if hasattr(type(callback), "plan_of_run")]
    plan = max(plans, key=lambda plan: len(plan.phases), default=None)
    phase = "" if plan is None else f"phase {plan.phase_of(task.current_epoch) + 1} of {len(plan.phases)}, "
    return f"epoch {task.current_epoch + 1} ({phase}layer groups {trained[0]} to {trained[-1]} train)"
