"""When a phase that ends by itself has waited long enough for its metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_finetune.engine.phases import Phase


@dataclass
class Patience:
    """What the validations of a phase showed of its metric.

    Attributes:
        phase: Index of the phase.
        best: The best value so far; None before the first that is a number.
        waited: Validations since then.
    """

    phase: int
    best: float | None = None
    waited: int = 0

    def see(self, value: float, spec: Phase) -> bool:
        """Whether ``value`` is better than all before it, by more than ``min_delta``; what is not a number is not."""
        gain = math.inf if self.best is None else self.best - value if spec.mode == "min" else value - self.best
        better = not math.isnan(value) and gain > spec.min_delta
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better


def length_after(spec: Phase, done: int) -> int | None:
    """How many epochs a phase has whose patience has run out after ``done`` of them; None: it ends as it would have.

    A schedule whose fall takes a stated number of epochs falls then, unless it falls already.
    """
    limit, falls = spec.epochs or done, spec.falls or 0
    return done + falls if done + falls < limit else None
