"""Find the batch at which a loss stopped being finite, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
