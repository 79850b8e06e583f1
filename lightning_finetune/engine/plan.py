"""The plan of a run: what holds at each step, as a pure function of the phases and of progress.

Nothing here is stepped or stored, so resuming, distributed ranks, logging and plotting all read the same function.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from lightning_finetune.engine import schedules
from lightning_finetune.engine.phases import LR, Phase
from lightning_finetune.engine.resize import Size
from lightning_finetune.errors import PhaseError


@dataclass(frozen=True)
class State:
    """What holds at one optimizer step.

    Attributes:
        phase: Index of the phase.
        trained: Number of layer groups that train, counted from the head; None: left alone.
        lrs: Rate of each layer group from the input to the head, 0 where frozen; None: left alone.
        momentum: SGD's momentum or Adam's first beta; None: left alone.
        size: Shorter side of the training images, or height and width, in pixels; None: left alone.
    """

    phase: int
    trained: int | None
    lrs: tuple[float, ...] | None
    momentum: float | None
    size: int | Size | None


@dataclass(frozen=True)
class Plan(Sequence[State]):
    """The resolved schedule: a sequence with one :class:`State` for each optimizer step of the run.

    Attributes:
        phases: In order; all with a number of epochs, but the last may be open when the run is counted in steps.
        steps: Optimizer steps of each phase.
        num_groups: Layer groups of the model.
        num_head: How many of them ``"head"`` means.
        train_norm: Whether norm layers of frozen groups train, and so need a rate.
    """

    phases: tuple[Phase, ...]
    steps: tuple[int, ...]
    num_groups: int = 3
    num_head: int = 1
    train_norm: bool = False

    def __post_init__(self) -> None:
        """Check what needs the number of groups."""
        self._peaks  # noqa: B018  # refuses rates that do not fit

    def __len__(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(self.steps)

    @overload
    def __getitem__(self, step: int) -> State: ...
    @overload
    def __getitem__(self, step: slice) -> list[State]: ...
    def __getitem__(self, step: int | slice) -> State | list[State]:
        """What holds at optimizer step ``step`` (from 0)."""
        if isinstance(step, slice):
            return [self[index] for index in range(*step.indices(len(self)))]
        index = step + len(self) if step < 0 else step
        if not 0 <= index < len(self):
            raise IndexError(f"Expected a step below {len(self)}, got {step}.")
        phase = bisect.bisect_right(self._ends, index)
        return self.state(phase, index - self.start(phase))

    def at(self, epoch: int, step: int) -> State:
        """What holds in ``epoch`` before optimizer step ``step``; a run that overruns its plan stays at its end."""
        phase = self.phase_of(epoch)
        return self.state(phase, step - self.start(phase))

    def state(self, phase: int, step: int) -> State:
        """What holds at ``step`` within ``phase``."""
        spec, total = self.phases[phase], max(self.steps[phase], 1)
        progress = min(max(step, 0), total - 1) / total
        trained, peaks = self.trained(phase), self._peaks[phase]
        if peaks is None:
            return State(phase, trained, None, None, spec.size)
        part = schedules.rate(
            spec.schedule, 1.0, progress, div=spec.div, div_final=spec.div_final, pct_start=spec.pct_start
        )
        momentum = schedules.momentum(spec.schedule, spec.moms, progress, spec.pct_start)
        return State(phase, trained, tuple(peak * part for peak in peaks), momentum, spec.size)

    def start(self, phase: int) -> int:
        """First optimizer step of ``phase``."""
        return sum(self.steps[:phase])

    def first_epoch(self, phase: int) -> int:
        """First epoch of ``phase``."""
        return sum(spec.epochs or 0 for spec in self.phases[:phase])

    def phase_of(self, epoch: int) -> int:
        """Index of the phase that ``epoch`` (from 0) lies in."""
        return bisect.bisect_right(self._first_epochs, epoch) - 1

    # What every step asks, worked out once.

    @cached_property
    def _first_epochs(self) -> list[int]:
        return [self.first_epoch(phase) for phase in range(len(self.phases))]

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(self.steps))

    @cached_property
    def _peaks(self) -> list[tuple[float, ...] | None]:
        return [self.rates(phase) for phase in range(len(self.phases))]

    def trained(self, phase: int) -> int | None:
        """Number of layer groups that train in ``phase``, counted from the head; None: left alone."""
        train = self.phases[phase].train
        if train is None:
            return None
        count = {"head": self.num_head, "all": self.num_groups}.get(train) if isinstance(train, str) else train
        if count is None or count > self.num_groups:
            raise PhaseError(f"Phase {phase + 1} trains {train} layer groups, but the model has {self.num_groups}.")
        return count

    def rates(self, phase: int) -> tuple[float, ...] | None:
        """Peak rate of each layer group in ``phase``, from the input to the head: 0 where it is frozen."""
        spec = self.phases[phase]
        if spec.lr is None:
            return None
        count = self.trained(phase) or self.num_groups
        frozen = self.num_groups - count
        if isinstance(spec.lr, list) and len(spec.lr) == self.num_groups != 2:
            rates = schedules.spread(spec.lr, self.num_groups)
            return tuple(0.0 if i < frozen and not self.train_norm else lr for i, lr in enumerate(rates))
        trained = schedules.spread(spec.known_lr, count)
        return (*[trained[0] if self.train_norm else 0.0] * frozen, *trained)

    def with_lr(self, phase: int, lr: LR) -> Plan:
        """The same plan with the rate that a range test found for ``phase``."""
        phases = list(self.phases)
        phases[phase] = replace(phases[phase], lr=lr)
        return replace(self, phases=tuple(phases))


def make_plan(
    phases: Sequence[Phase],
    steps_per_epoch: int | Sequence[int] | None,
    *,
    max_epochs: int | None = None,
    max_steps: int | None = None,
    num_groups: int = 3,
    num_head: int = 1,
    train_norm: bool = False,
) -> Plan:
    """Lay ``phases`` over a run.

    Args:
        phases: In order; the last may be open (``epochs=None``).
        steps_per_epoch: Optimizer steps, the same each epoch or one number an epoch; None where it cannot be known,
            which only an open phase with ``max_steps`` can do without.
        max_epochs: Where an open phase ends.
        max_steps: Where the run ends at the latest.
        num_groups: Layer groups of the model.
        num_head: How many of them ``"head"`` means.
        train_norm: Whether norm layers of frozen groups train.

    Raises:
        PhaseError: No phases, an open phase that is not the last or has no end, a phase that begins after the end.
    """
    phases = _closed(phases, max_epochs)
    if steps_per_epoch is None:
        if len(phases) > 1 or max_steps is None:
            raise PhaseError(
                "The training data has no length, so the epochs' steps are not known. Set `limit_train_batches` to a "
                "whole number (several phases), or `max_steps` (one phase)."
            )
        steps = [max_steps]
    else:
        steps = _steps(phases, steps_per_epoch, max_steps)
    return Plan(tuple(phases), tuple(steps), num_groups, num_head, train_norm)


def _closed(phases: Sequence[Phase], max_epochs: int | None) -> list[Phase]:
    """The phases with the open one ended by ``max_epochs``, where that is known."""
    if not phases:
        raise PhaseError("Expected at least one phase, got none.")
    if any(phase.epochs is None for phase in phases[:-1]):
        raise PhaseError("Only the last phase may be open (`epochs=None`).")
    last = phases[-1]
    if last.epochs is not None or max_epochs is None:
        return list(phases)
    before = sum(phase.epochs or 0 for phase in phases[:-1])
    if before >= max_epochs:
        raise PhaseError(
            f"The last phase begins at epoch {before}, but the run ends after epoch {max_epochs - 1} "
            f"(max_epochs={max_epochs}): it would never be reached. Train longer or begin it earlier."
        )
    return [*phases[:-1], replace(last, epochs=max_epochs - before)]


def _steps(phases: Sequence[Phase], per_epoch: int | Sequence[int], max_steps: int | None) -> list[int]:
    steps: list[int] = []
    epoch = 0
    for phase in phases:
        left = None if max_steps is None else max_steps - sum(steps)
        if phase.epochs is None:
            if left is None:
                raise PhaseError("The last phase is open, and neither `max_epochs` nor `max_steps` ends the run.")
            steps.append(left)
        else:
            planned = sum(_of_epoch(per_epoch, number) for number in range(epoch, epoch + phase.epochs))
            steps.append(planned if left is None else min(planned, left))
            epoch += phase.epochs
        if steps[-1] <= 0:
            raise PhaseError(f"Phase {len(steps)} would never be reached: the run ends at step {sum(steps[:-1])}.")
    return steps


def _of_epoch(per_epoch: int | Sequence[int], epoch: int) -> int:
    if isinstance(per_epoch, int):
        return per_epoch
    return per_epoch[min(epoch, len(per_epoch) - 1)]
