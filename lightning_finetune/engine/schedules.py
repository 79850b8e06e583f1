"""Learning rates and momentum as closed forms of progress, never as a state that is stepped.

Progress is ``i / n`` for step ``i`` (from 0) of ``n``, as in fastai, so the end itself is not reached. The one-cycle
policy is of Smith 2018 (https://arxiv.org/abs/1803.09820) with the cosine halves of the fast.ai lessons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from lightning_finetune.errors import PhaseError

Shape = Callable[[float], float]
"""A schedule: from the progress of a phase, in [0, 1), to the part of its peak that the rate has."""

Schedule = Literal["one_cycle", "flat_cos", "constant"] | Shape
Moms = tuple[float, float, float]

PCT_START: dict[str, float] = {"one_cycle": 0.25, "flat_cos": 0.75, "constant": 1.0}
"""The share of a phase before the rate begins to fall: fastai's defaults."""


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1 along half a cosine."""
    return start + (1 + math.cos(math.pi * (1 - progress))) * (end - start) / 2


def rise_and_fall(start: float, peak: float, end: float, progress: float, pct_start: float) -> float:
    """A half cosine from ``start`` to ``peak`` until ``pct_start``, then one down to ``end``."""
    if progress < pct_start:
        return cosine(start, peak, progress / pct_start)
    if pct_start >= 1:
        return peak
    return cosine(peak, end, (progress - pct_start) / (1 - pct_start))


def rate(
    schedule: Schedule, max_lr: float, progress: float, *, div: float, div_final: float, pct_start: float | None = None
) -> float:
    """The learning rate at ``progress`` through a phase.

    Args:
        schedule: ``one_cycle`` rises from ``max_lr / div`` and falls to ``max_lr / div_final``; ``flat_cos`` is flat,
            then falls likewise; ``constant`` is ``max_lr``; a function gives the part of ``max_lr``.
        max_lr: The peak.
        progress: In [0, 1).
        div: Peak over start.
        div_final: Peak over end.
        pct_start: Where the fall begins; None is the schedule's own (:data:`PCT_START`).
    """
    return max_lr * shape(schedule, div, div_final, pct_start)(progress)


def shape(schedule: Schedule, div: float, div_final: float, pct_start: float | None = None) -> Shape:
    """The function of progress that a name stands for, or the user's own."""
    if not isinstance(schedule, str):
        return partial(_checked, schedule)
    if schedule == "constant":
        return lambda progress: 1.0
    start = 1 / div if schedule == "one_cycle" else 1.0
    return partial(rise_and_fall, start, 1.0, 1 / div_final, pct_start=warm_up(schedule, pct_start))


def _checked(function: Shape, progress: float) -> float:
    part = function(progress)
    if not (isinstance(part, (int, float)) and 0 <= part < math.inf):
        raise PhaseError(
            f"Expected the schedule {title(function)} to give a part of the peak, a number of at least 0; at progress "
            f"{progress} it gave {part!r}."
        )
    return float(part)


def check(schedule: Schedule) -> None:
    """Refuse a function that gives no part of the peak.

    Raises:
        PhaseError: It is one.
    """
    if not isinstance(schedule, str):
        _checked(schedule, 0.0)


def title(schedule: Schedule) -> str:
    """What a schedule is called."""
    if isinstance(schedule, str):
        return schedule.replace("_", "-")
    return getattr(schedule, "__name__", type(schedule).__name__)


def momentum(schedule: Schedule, moms: Moms | None, progress: float, pct_start: float | None = None) -> float | None:
    """SGD's momentum or Adam's first beta, which falls while the rate of one cycle rises; None: leave it alone."""
    if moms is None or schedule != "one_cycle":
        return None
    return rise_and_fall(*moms, progress, warm_up(schedule, pct_start))


def warm_up(schedule: Schedule, pct_start: float | None) -> float:
    """Which share of a phase lies before its fall; of a function of the user's nobody knows."""
    if pct_start is not None:
        return pct_start
    return PCT_START[schedule] if isinstance(schedule, str) else 0.0


def spread(lr: float | Sequence[float | None], num_groups: int) -> list[float]:
    """One rate for each group, from the input to the head (fastai's ``slice`` rules).

    A number goes to every group. ``(low, high)`` spreads geometrically. ``(None, high)`` gives the last group ``high``
    and all others a tenth of it. A sequence of ``num_groups`` numbers is taken as it is.

    Raises:
        PhaseError: Another length, or a rate that is not positive.
    """
    if isinstance(lr, (int, float)):
        rates = [float(lr)] * num_groups
    elif len(lr) == 2:
        rates = _between(lr[0], lr[1], num_groups)
    elif len(lr) == num_groups and None not in lr:
        rates = [float(value) for value in lr if value is not None]
    else:
        raise PhaseError(
            f"Expected a learning rate as one number, a pair (low, high), or {num_groups} numbers, one per layer "
            f"group; got {list(lr)}."
        )
    if any(not (0 < value < math.inf) for value in rates):
        raise PhaseError(f"Expected learning rates to be positive and finite, got {lr}.")
    return rates


def _between(low: float | None, high: float | None, num_groups: int) -> list[float]:
    if high is None:
        raise PhaseError(f"Expected the higher learning rate of a pair to be a number, got ({low}, {high}).")
    if low is None:
        return [high / 10] * (num_groups - 1) + [float(high)]
    if num_groups == 1:
        return [float(high)]
    if not (low > 0 and high > 0):
        raise PhaseError(f"Expected learning rates to be positive and finite, got ({low}, {high}).")
    return [low * (high / low) ** (index / (num_groups - 1)) for index in range(num_groups)]
