"""What a run leaves to look at: rates and losses of its steps, and what was measured between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LIMIT = 2000
"""Most steps that are kept: more than a picture can show."""


class History:
    """Rates and losses by optimizer step, in memory that does not grow with the length of the run.

    When it is full, every second step is dropped, and from then on only as many are taken.

    Attributes:
        steps: The recorded optimizer steps, ascending.
        losses: Training loss of each.
        rates: Learning rates of each, by the name of the layer group; 0 where it was frozen.
        measured: By name: steps and values of what was measured between steps, such as ``val_loss``.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.rates: dict[str, list[float]] = {}
        self.measured: dict[str, list[tuple[int, float]]] = {}
        self._stride = 1
        self._pending: list[Tensor] = []

    def wants(self, step: int) -> bool:
        """Whether ``step`` is one to record."""
        return step % self._stride == 0 and (not self.steps or step > self.steps[-1])

    def add(self, step: int, rates: Mapping[str, float], loss: Tensor) -> None:
        """Record a step; ``loss`` stays on its device until :meth:`flush`.

        Args:
            step: Optimizer steps made before it.
            rates: Learning rates it was made with.
            loss: Scalar.
        """
        if not self.wants(step):
            return
        self.steps.append(step)
        for name in dict.fromkeys([*self.rates, *rates]):  # in the order of the layers
            column = self.rates.setdefault(name, [0.0] * (len(self.steps) - 1))
            column.append(rates.get(name, 0.0))
        self._pending.append(loss.detach().float())
        if len(self._pending) >= LIMIT:
            self.flush()

    def measure(self, step: int, values: Mapping[str, float]) -> None:
        """Record what was measured after ``step`` optimizer steps; anew where the step was measured before."""
        for name, value in values.items():
            points = self.measured.setdefault(name, [])
            if points and step <= points[-1][0]:
                points[:] = [point for point in points if point[0] != step]
            points.append((step, value))

    def flush(self) -> None:
        """Bring the losses from their device, all at once, and thin what is too long."""
        if self._pending:
            self.losses += torch.stack(self._pending).tolist()
            self._pending.clear()
        while len(self.steps) > LIMIT:
            self._stride *= 2
            kept = [place for place, step in enumerate(self.steps) if step % self._stride == 0]
            self.steps = _pick(self.steps, kept)
            self.losses = _pick(self.losses, kept)
            self.rates = {name: _pick(column, kept) for name, column in self.rates.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        self.flush()
        measured = {name: list(points) for name, points in self.measured.items()}
        rates = {name: list(column) for name, column in self.rates.items()}
        return {
            "steps": list(self.steps),
            "losses": list(self.losses),
            "rates": rates,
            "measured": measured,
            "stride": self._stride,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave."""
        self.steps, self.losses = list(state["steps"]), list(state["losses"])
        self.rates = {name: list(column) for name, column in state["rates"].items()}
        self.measured = {name: [(step, value) for step, value in points] for name, points in state["measured"].items()}
        self._stride = state["stride"]
        self._pending.clear()


def _pick(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]
