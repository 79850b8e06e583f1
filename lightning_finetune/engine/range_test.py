"""The learning rate range test: the sweep, and what its curve suggests.

Smith 2015 (https://arxiv.org/abs/1506.01186); sweep, smoothing, stop and the suggestions ``steep``, ``valley``,
``slide`` and ``minimum`` as in fastai; ``elbow`` is the reading that the fast.ai lessons teach for an unfrozen model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_finetune.engine.phases import DEFAULT_LR, LR
from lightning_finetune.errors import PhaseError

Suggestion = Literal["steep", "valley", "slide", "minimum", "elbow"]
Array = npt.NDArray[np.float64]

BETA = 0.98
"""Decay of the running mean of the loss."""
STOP_DIV = 4.0
"""The sweep stops when the smoothed loss exceeds this many times its best."""
SKIP_END = 5
MIN_POINTS = 10
"""A curve with fewer than twice as many points is not trusted."""
ELBOW_FALL, ELBOW_NOISE = 0.2, 3.0
"""How far above its lowest level a loss counts as not risen yet: shares of the fall, multiples of the noise."""
MIN_FALL = 0.2
"""The share of its whole fall by which the smoothed loss must have fallen, to be falling for good."""
MIN_DESCENT = 0.05
"""The share by which the loss must fall below where it began, for a slope to be more than noise."""
DIVIDED = {"minimum", "elbow"}
"""Suggestions that are a tenth of the rate that was read off the curve."""


@dataclass(frozen=True)
class Curve:
    """What a sweep recorded, one entry a step.

    Attributes:
        lrs: Rate of the step.
        losses: Loss before the step.
        smoothed: Debiased running mean of the losses.
        suggestions: Rate by name, whether it is to be trusted (:func:`fault`) or not; no ``elbow`` where none is.
        diverged: Whether the sweep ended because the loss shot up or was not finite.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool = False
    suggestions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a range test decided for a phase.

    Attributes:
        lr: The phase's rate.
        reason: Why, in a sentence.
        curve: What was seen.
    """

    lr: float | tuple[float, float]
    reason: str
    curve: Curve


def choose(lr: LR, curve: Curve, unfrozen: bool) -> Found:
    """Fill ``"find"`` by the lessons' rules: a head takes ``steep``; unfrozen layers ``(elbow, given)``.

    The elbow is already a tenth of the rate before which the loss shoots up. Where the suggestion cannot be trusted,
    the lessons' defaults hold: 3e-3 for a head, a hundredth of the given rate at the input of unfrozen layers.

    Args:
        lr: The phase's rate with ``"find"`` in it.
        curve: With its suggestions.
        unfrozen: Whether more than the head trains.
    """
    high = known_high(lr, unfrozen)
    name: Suggestion = "elbow" if unfrozen else "steep"
    wrong = fault(curve, name)
    if wrong is not None:
        value: float | tuple[float, float] = (high / 100, high) if unfrozen else DEFAULT_LR
        return Found(value, f"the lessons' default, as the curve {wrong}", curve)
    found = curve.suggestions[name]
    if not unfrozen:
        return Found(found, f"steepest descent at {found:.1e}", curve)
    if found >= high:
        return Found(
            (high / 10, high), f"a tenth of the given rate, as the elbow is as late as {10 * found:.1e}", curve
        )
    return Found((found, high), f"a tenth of the elbow at {10 * found:.1e}", curve)


def fault(curve: Curve, name: Suggestion) -> str | None:
    """Why the suggestion ``name`` cannot be trusted: what "the curve …"; None where it can."""
    losses = np.asarray(curve.smoothed)[: _finite_part(curve)]
    if len(losses) < 2 * MIN_POINTS:
        return f"has only {len(losses)} points"
    if name == "elbow":
        return None if name in curve.suggestions else "nowhere shoots up"
    lowest = int(np.argmin(losses))
    start = float(np.median(losses[: max(1, lowest // 3)]))
    fall = start - float(losses[lowest])
    if fall <= MIN_DESCENT * abs(start):
        return "nowhere falls"
    falling = int(np.flatnonzero(losses[: lowest + 1] >= start - MIN_FALL * fall)[-1])
    lr = curve.suggestions[name]
    if name == "steep" and lr < curve.lrs[falling]:
        return f"is steepest at {lr:.1e}, before it falls for good"
    return None


def known_high(lr: LR, unfrozen: bool) -> float:
    """The given upper rate of a pair, else the lessons' default: 3e-3, a tenth of it where layers are unfrozen."""
    last = lr[-1] if isinstance(lr, (tuple, list)) else lr
    return last if isinstance(last, (int, float)) else DEFAULT_LR / 10 if unfrozen else DEFAULT_LR


def sweep_rates(start_lr: float, end_lr: float, num_steps: int) -> list[float]:
    """Rates that grow geometrically, ``start * (end / start) ** (i / n)``: the end itself is not reached.

    Raises:
        PhaseError: Rates that are not positive and growing, or fewer than 6 steps.
    """
    if not 0 < start_lr < end_lr < math.inf:
        raise PhaseError(f"Expected 0 < start_lr < end_lr, got start_lr={start_lr} and end_lr={end_lr}.")
    if num_steps < 6:
        raise PhaseError(f"Expected a range test of at least 6 steps, got num_steps={num_steps}.")
    return [start_lr * (end_lr / start_lr) ** (index / num_steps) for index in range(num_steps)]


def sweep(step: Callable[[float], float], rates: Iterable[float], stop_div: float | None = STOP_DIV) -> Curve:
    """Call ``step`` with each rate until the loss shoots up.

    Args:
        step: Makes one optimizer step at the rate it is given; returns the loss before it.
        rates: In growing order.
        stop_div: Stop when the smoothed loss exceeds so many times its best; None only stops at a loss that is not
            finite.
    """
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, best, diverged = 0.0, math.inf, False
    for count, lr in enumerate(rates, start=1):
        loss = step(lr)
        mean = BETA * mean + (1 - BETA) * loss
        debiased = mean / (1 - BETA**count)
        lrs.append(lr)
        losses.append(loss)
        smoothed.append(debiased)
        best = min(best, debiased) if math.isfinite(debiased) else best
        diverged = not math.isfinite(loss) or (stop_div is not None and debiased > stop_div * best)
        if diverged:
            break
    return Curve(lrs, losses, smoothed, diverged)


def suggest(curve: Curve, num_steps: int | None = None) -> dict[str, float]:
    """Every suggestion that can be computed from ``curve``, by name; :func:`fault` tells which are to be trusted.

    As in fastai, the first tenth of the planned steps and the last five points are not looked at (``elbow`` looks at
    all).

    Args:
        curve: Of one sweep.
        num_steps: Steps that the sweep was to make; None: as many as the curve has.
    """
    finite = _finite_part(curve)
    first = (num_steps or len(curve.lrs)) // 10
    lrs, losses = np.asarray(curve.lrs)[:finite], np.asarray(curve.smoothed)[:finite]
    bend = elbow(lrs, curve.losses[:finite]) if len(lrs) >= MIN_POINTS else None
    found = {} if bend is None else {"elbow": bend}
    lrs, losses = lrs[first:-SKIP_END], losses[first:-SKIP_END]
    if len(lrs) >= 2:  # a slope needs two
        for name, function in (("steep", steep), ("valley", valley), ("slide", slide), ("minimum", minimum)):
            found[name] = function(lrs, losses)
    return found


def _finite_part(curve: Curve) -> int:
    """Number of points before the first loss that is not finite."""
    bad = [index for index, value in enumerate(curve.smoothed) if not math.isfinite(value)]
    return bad[0] if bad else len(curve.smoothed)


def steep(lrs: Sequence[float] | Array, losses: Sequence[float] | Array) -> float:
    """The rate where the loss falls fastest against the logarithm of the rate."""
    x, y = np.log(np.asarray(lrs, dtype=float)), np.asarray(losses, dtype=float)
    if len(x) < 2:
        return float(lrs[0])
    return float(lrs[int(np.argmin(np.diff(y) / np.diff(x)))])


def minimum(lrs: Sequence[float] | Array, losses: Sequence[float] | Array) -> float:
    """A tenth of the rate where the loss is lowest."""
    return float(lrs[int(np.argmin(losses))]) / 10


def valley(lrs: Sequence[float] | Array, losses: Sequence[float] | Array) -> float:
    """About the middle of the longest run of falling losses, gaps allowed."""
    y = np.asarray(losses, dtype=float)
    lengths = np.ones(len(y), dtype=int)
    end = 0
    for index in range(1, len(y)):
        above = lengths[:index][y[:index] > y[index]]
        lengths[index] = 1 + (above.max() if len(above) else 0)
        if lengths[index] > lengths[end]:
            end = index
    start = end - int(lengths[end])
    section = (end - start) / 3
    middle = start + int(section) + int(section / 2)
    return float(lrs[min(max(middle, 0), len(y) - 1)])


def elbow(lrs: Sequence[float] | Array, losses: Sequence[float] | Array) -> float | None:
    """A tenth of the last rate before the loss shoots up: what the lessons read off an unfrozen model's curve.

    Read off the losses themselves, because their running mean lags by decades. A running median of seven shows the
    level; the elbow is its last point that is no higher above the lowest than a fifth of the fall, or than three times
    the noise where the curve is flat. The noise is that of the first third of the sweep (by median absolute deviation),
    in proportion to the level. None where the loss does not shoot up.

    Args:
        lrs: Rates of the steps.
        losses: Loss of each step, not smoothed.
    """
    x, y = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    level = np.array([np.median(y[max(0, i - 3) : i + 4]) for i in range(len(y))])
    quiet = y[: max(3, len(y) // 3)]  # rates too small to do anything
    noise = 1.4826 * float(np.median(np.abs(quiet - np.median(quiet))))
    start, floor = float(np.median(quiet)), float(level.min())
    share = min(max(floor / start, 0.0), 1.0) if start > 0 else 1.0
    margin = max(ELBOW_FALL * (start - floor), ELBOW_NOISE * noise * share)
    if level[-1] <= floor + 2 * margin:
        return None
    return float(x[np.flatnonzero(level <= floor + margin)[-1]]) / 10


def slide(
    lrs: Sequence[float] | Array, losses: Sequence[float] | Array, lr_diff: int = 15, threshold: float = 0.005
) -> float:
    """Where, coming from the right, the slope stops differing from the slope ``lr_diff`` points further left."""
    slopes = np.gradient(np.asarray(losses, dtype=float))
    right, left = -1, -1 - lr_diff
    found = float(lrs[max(left, -len(lrs))])
    while left >= -len(slopes) and abs(slopes[right] - slopes[left]) > threshold:
        found = float(lrs[left])
        right, left = right - 1, left - 1
    return found
