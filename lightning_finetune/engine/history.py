"""What a run leaves to look at: what its steps were made with, their losses, and what was measured between them."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.resize import Size

LIMIT = 2000
"""Most steps that are kept: more than a picture can show."""


@dataclass(frozen=True)
class Settings:
    """What an optimizer step is made with.

    Attributes:
        rates: Learning rates by the name of the layer group; 0 where it is frozen. One that the device holds stays
            there until the history is flushed.
        momentum: SGD's momentum or Adam's first beta; None without either.
        size: Height and width of the images in pixels; None where there are none.
        trained: Share of the parameters that train, 0 to 1, by the name of the layer group.
    """

    rates: Mapping[str, float | Tensor]
    momentum: float | None = None
    size: Size | None = None
    trained: Mapping[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class History:
    """Settings and losses by optimizer step, in memory that does not grow with the length of the run.

    When it is full, every second step is dropped, and from then on only as many are taken.

    Attributes:
        steps: The recorded optimizer steps, ascending.
        losses: Training loss of each.
        rates: Learning rates of each, by the name of the layer group; 0 where it was frozen.
        momentum: SGD's momentum or Adam's first beta of each, or None.
        sizes: Height and width of the images of each, in pixels, or None.
        trained: Share of the parameters that trained in each, 0 to 1, by the name of the layer group.
        epochs: First step of each epoch that has begun.
        measured: By name: steps and values of what was measured between steps, such as ``val_loss``.
        stride: Of how many steps one is recorded.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    momentum: list[float | None] = field(default_factory=list)
    sizes: list[Size | None] = field(default_factory=list)
    trained: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    measured: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    stride: int = 1

    def __post_init__(self) -> None:
        """Losses that are still on their device are no part of the state."""
        self._pending: list[Tensor] = []

    def wants(self, step: int) -> bool:
        """Whether ``step`` is one to record."""
        return step % self.stride == 0 and (not self.steps or step > self.steps[-1])

    def add(self, step: int, settings: Settings, loss: Tensor) -> None:
        """Record a step; ``loss`` stays on its device until :meth:`flush`.

        Args:
            step: Optimizer steps made before it.
            settings: What it was made with.
            loss: Scalar.
        """
        if not self.wants(step):
            return
        self._append(step, settings)
        self._pending.append(loss.detach().float())
        if len(self._pending) >= LIMIT:
            self.flush()

    def _append(self, step: int, settings: Settings) -> None:
        self.steps.append(step)
        self._extend(self.rates, settings.rates)
        self._extend(self.trained, settings.trained)
        self.momentum.append(settings.momentum)
        self.sizes.append(settings.size)

    def _extend(self, columns: dict[str, list[Any]], values: Mapping[str, Any]) -> None:
        for name in dict.fromkeys([*columns, *values]):  # in the order of the layers
            column = columns.setdefault(name, [0.0] * (len(self.steps) - 1))
            column.append(values.get(name, 0.0))

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Record that ``epoch`` (from 0) begins with ``step``; one that a resumed run goes on with began before."""
        self.epochs += [step] * (epoch + 1 - len(self.epochs))

    def epoch_of(self, step: int) -> int | None:
        """The epoch (from 0) that ``step`` was made in; None where no epoch was recorded before it."""
        begun = bisect.bisect_right(self.epochs, step)
        return begun - 1 if begun else None

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
            self.rates = {name: [float(rate) for rate in column] for name, column in self.rates.items()}
            self._pending.clear()
        while len(self.steps) > LIMIT:
            self.stride *= 2
            kept = [place for place, step in enumerate(self.steps) if step % self.stride == 0]
            columns: list[list[Any]] = [self.steps, self.losses, self.momentum, self.sizes]
            for column in (*columns, *self.rates.values(), *self.trained.values()):
                column[:] = [column[place] for place in kept]

    def state_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        self.flush()
        return {name: copy.deepcopy(getattr(self, name)) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave."""
        for name in _STATE:
            setattr(self, name, copy.deepcopy(state[name]))
        self._pending.clear()


_STATE = [each.name for each in fields(History)]


def planned(
    plans: Sequence[Plan], names: Sequence[str], steps: Iterable[int], norms: Sequence[float] | None = None
) -> History:
    """The history, without losses, of a run that follows its plans.

    Args:
        plans: Of one run: what one leaves alone, another may say.
        names: Of the layer groups, from the input to the head.
        steps: Optimizer steps, ascending; beyond the end of a plan its last state holds.
        norms: Share of the parameters of each group that trains also while the group is frozen; None: nothing does.
    """
    history = History()
    for step in steps:
        states = [plan[min(step, len(plan) - 1)] for plan in plans]
        lrs = next((state.lrs for state in states if state.lrs is not None), None)
        momentum = next((state.momentum for state in states if state.momentum is not None), None)
        size = next((state.size for state in states if state.size is not None), None)
        count = next((state.trained for state in states if state.trained is not None), None)
        frozen = [] if count is None else list(norms or [0.0] * len(names))[: len(names) - count]
        shares = {} if count is None else dict(zip(names, [*frozen, *[1.0] * count], strict=True))
        rates = {} if lrs is None else dict(zip(names, lrs, strict=True))
        history._append(step, Settings(rates, momentum, (size, size) if isinstance(size, int) else size, shares))
    return history
