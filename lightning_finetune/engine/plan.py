"""The plan of a run: what holds at each place of it, as a pure function of the phases and of progress.

A place is an epoch and the part of it that is done, so that the plan holds however many steps an epoch has. Nothing is
stepped or stored here, so resuming, distributed ranks, logging and plotting all read the same function.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from lightning_finetune.engine import schedules
from lightning_finetune.engine.epochs import Epoch, expected
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.rates import LR
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
        weight_decay: Of what the optimizer decays; None: its own.
    """

    phase: int
    trained: int | None
    lrs: tuple[float, ...] | None
    momentum: float | None
    size: int | Size | None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Plan(Sequence[State]):
    """The resolved schedule: a sequence with one :class:`State` for each optimizer step of the run.

    Attributes:
        phases: In order; all with a number of epochs, but the last may be open. One that ended by itself has those that
            it really had.
        limits: The epochs that each phase was given.
        epochs: Those of all phases that have a number of epochs: as they were, then as they are expected to be.
        weights: What each of ``epochs`` counts in its phase: the steps it would have with the data of now.
        max_steps: Optimizer steps after which the run ends at the latest; None: no such end.
        num_groups: Layer groups of the model.
        num_head: How many of them ``"head"`` means.
        train_norm: Whether norm layers of frozen groups train, and so need a rate.
    """

    phases: tuple[Phase, ...]
    limits: tuple[int | None, ...]
    epochs: tuple[Epoch, ...]
    weights: tuple[int, ...]
    max_steps: int | None = None
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
        """What holds in ``epoch`` before optimizer step ``step`` of the run; one that overruns stays at its end."""
        phase = self.phase_of(epoch)
        if self._by_step[phase]:
            return self._state(phase, self._by_steps(phase, step - self.start(phase)))
        return self._state(phase, self._by_epochs(phase, epoch, step))

    def state(self, phase: int, step: int) -> State:
        """What holds at ``step`` within ``phase``."""
        if self._by_step[phase]:
            return self._state(phase, self._by_steps(phase, step))
        step += self.start(phase)
        first = self.first_epoch(phase)
        epoch = max(bisect.bisect_right(self._starts, step) - 1, first)
        return self._state(phase, self._by_epochs(phase, epoch, step))

    def _state(self, phase: int, progress: float) -> State:
        spec, peaks, lrs, momentum = self.phases[phase], self._peaks[phase], None, None
        if peaks is not None:
            share = spec.share
            part = schedules.rate(spec.schedule, 1.0, progress, div=spec.div, div_final=spec.div_final, pct_start=share)
            lrs = tuple(peak * part for peak in peaks)
            momentum = schedules.momentum(spec.schedule, spec.moms, progress, share)
        return State(phase, self.trained(phase), lrs, momentum, spec.size, spec.weight_decay)

    def _by_steps(self, phase: int, step: int) -> float:
        """Progress in a phase whose end is a number of steps."""
        total = max(self.steps[phase], 1)
        return min(max(step, 0), total - 1) / total

    def _by_epochs(self, phase: int, epoch: int, step: int) -> float:
        """Progress in a phase before ``step`` of the run, which is in ``epoch``; its own end is not reached."""
        first = self.first_epoch(phase)
        last = first + (self.phases[phase].epochs or 1) - 1
        if epoch > last:
            epoch, step = last, self._starts[last + 1]
        most = self.epochs[epoch].count - (epoch == last)
        part = self.epochs[epoch].behind(min(step - self._starts[epoch], most))
        whole = sum(self.weights[first : last + 1]) + self._cut(phase) * self.weights[last]
        return float((sum(self.weights[first:epoch]) + part * self.weights[epoch]) / whole)

    def _cut(self, phase: int) -> int:
        """How many epochs of its schedule ``phase`` did not come to, as it ended by itself."""
        spec = self.phases[phase]
        return 0 if spec.falls is not None else self.limit(phase) - (spec.epochs or 0)

    def limit(self, phase: int) -> int:
        """Epochs of ``phase`` at the most; of an open one 0."""
        return self.limits[phase] or 0

    def is_open(self, phase: int) -> bool:
        """Whether ``phase`` can still end by itself."""
        return self.phases[phase].until is not None and self.phases[phase].epochs == self.limits[phase]

    def start(self, phase: int) -> int:
        """First optimizer step of ``phase``."""
        return self._ends[phase - 1] if phase else 0

    def first_epoch(self, phase: int) -> int:
        """First epoch of ``phase``."""
        return self._first_epochs[phase]

    def phase_of(self, epoch: int) -> int:
        """Index of the phase that ``epoch`` (from 0) lies in."""
        return bisect.bisect_right(self._first_epochs, epoch) - 1

    def is_estimate(self, phase: int) -> bool:
        """Whether the steps of ``phase`` are not all known."""
        first = self.first_epoch(phase)
        count = self.phases[phase].epochs
        return (
            self.max_steps is None
            if count is None
            else any(epoch.is_estimate or epoch.steps is None for epoch in self.epochs[first : first + count])
        )

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Optimizer steps of each phase."""
        steps: list[int] = []
        for phase in range(len(self.phases)):
            ends = (self._steps_of_epochs(phase), None if self.max_steps is None else self.max_steps - sum(steps))
            steps.append(min((end for end in ends if end is not None), default=1))
        return tuple(steps)

    def _steps_of_epochs(self, phase: int) -> int | None:
        first, count = self.first_epoch(phase), self.phases[phase].epochs
        return None if count is None else sum(epoch.count for epoch in self.epochs[first : first + count])

    # What every step asks, worked out once.

    @cached_property
    def _by_step(self) -> list[bool]:
        """Whether the run ends, by its number of steps, before the epochs of each phase do."""
        own = [self._steps_of_epochs(phase) for phase in range(len(self.phases))]
        return [count is None or count > steps for count, steps in zip(own, self.steps, strict=True)]

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((epoch.count for epoch in self.epochs), initial=0))

    @cached_property
    def _first_epochs(self) -> list[int]:
        return list(itertools.accumulate((spec.epochs or 0 for spec in self.phases[:-1]), initial=0))

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
        if spec.rates is None:
            return None
        count = self.trained(phase) or self.num_groups
        frozen = self.num_groups - count
        if spec.rates.is_by_group(self.num_groups):
            rates = spec.rates.spread(self.num_groups)
            return tuple(0.0 if i < frozen and not self.train_norm else lr for i, lr in enumerate(rates))
        trained = spec.rates.spread(count)
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
    past: Sequence[Epoch] = (),
    ended: Mapping[int, int] | None = None,
) -> Plan:
    """Lay ``phases`` over a run.

    Args:
        phases: In order; the last may be open (``epochs=None``).
        steps_per_epoch: Optimizer steps, the same each epoch or one number per epoch; None if the data has no
            length, so that they are known only after an epoch.
        max_epochs: Where an open phase ends.
        max_steps: Where the run ends at the latest.
        num_groups: Layer groups of the model.
        num_head: How many of them ``"head"`` means.
        train_norm: Whether norm layers of frozen groups train.
        past: The first epochs as they were.
        ended: How many epochs phases had that ended by themselves.

    Raises:
        PhaseError: No phases, an open phase that is not the last or has no end, a phase that begins after the end, or
            a rate that would follow the steps of an epoch of unknown length.
    """
    phases = _closed(phases, max_epochs)
    limits = tuple(phase.epochs for phase in phases)
    phases = [replace(phase, epochs=(ended or {}).get(number, phase.epochs)) for number, phase in enumerate(phases)]
    total = sum(phase.epochs or 0 for phase in phases)
    lengths = [steps_per_epoch] if steps_per_epoch is None or isinstance(steps_per_epoch, int) else steps_per_epoch
    said = [lengths[min(number, len(lengths) - 1)] for number in range(total)]
    epochs = list(past[:total])
    for number in range(len(epochs), total):
        epochs.append(expected(said[number], epochs))
    weights = tuple(1 if steps is None else steps for steps in said)
    plan = Plan(tuple(phases), limits, tuple(epochs), weights, max_steps, num_groups, num_head, train_norm)
    _check_ends(plan)
    return plan


def _check_ends(plan: Plan) -> None:
    """Refuse a plan that has no end where it needs one, or ends before it has begun."""
    for phase, (spec, steps) in enumerate(zip(plan.phases, plan.steps, strict=True)):
        if steps <= 0:
            raise PhaseError(f"Phase {phase + 1} would never be reached: the run ends at step {plan.start(phase)}.")
        needs_end = spec.lr is not None and spec.schedule != "constant"
        if needs_end and spec.epochs is None and plan.max_steps is None:
            raise PhaseError("The last phase is open, and neither `max_epochs` nor `max_steps` ends the run.")
        if phase or not needs_end or spec.epochs is None or plan.epochs[0].steps is not None:
            continue
        if spec.epochs * schedules.warm_up(spec.schedule, spec.share) < 1:
            raise PhaseError(
                "The training data has no length, so that the rates of phase 1 cannot follow its first epoch. Set "
                "`limit_train_batches` to the most batches that an epoch can have, or `max_steps` alone; or let the "
                'first epoch be part of the rise (pct_start), or use schedule="constant".'
            )


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
            f"The last phase begins at epoch {before + 1}, but the run ends after epoch {max_epochs} "
            f"(max_epochs={max_epochs}): it would never be reached. Train longer or begin it earlier."
        )
    return [*phases[:-1], replace(last, epochs=max_epochs - before)]
