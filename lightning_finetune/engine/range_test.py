"""The learning rate range test: its curve, and what that suggests.

Smith 2015 (https://arxiv.org/abs/1506.01186); rates, smoothing, stop and the suggestions ``steep``, ``valley``,
``slide`` and ``minimum`` as in fastai; ``elbow`` is the reading that the fast.ai lessons teach for an unfrozen model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_finetune.engine.rates import DEFAULT_LR, LR, Rates
from lightning_finetune.errors import PhaseError

Suggestion = Literal["steep", "valley", "slide", "minimum", "elbow"]
Array = npt.NDArray[np.float64]

FULL_STEPS = 100
"""Steps of a test over data that has enough; windows and decays are fastai's for so many, and scale with fewer."""
MIN_STEPS = 16
"""Steps of a test over next to no data: fewer do not show where the loss shoots up."""
EPOCHS = 4
"""Most passes over the training images; more, and the curve falls because the images are known by heart."""
BETA = 0.98
"""Decay of the running mean of the loss."""
STOP_DIV = 4.0
"""The test stops when the smoothed loss exceeds this many times its best."""
SKIP_END = 5
MIN_POINTS = 10
"""A curve with fewer points is not trusted."""
ELBOW_FALL, ELBOW_NOISE = 0.2, 3.0
"""How far above its lowest level a loss counts as not risen yet: shares of the fall, multiples of the noise."""
ELBOW_REACH, SLIDE_REACH = 3, 15
"""Steps of a full test: to each side in the elbow's median; between the slopes that ``slide`` compares."""
MOST_HEAD = 0.1
"""A rate for a head above this is not trusted: its curve did not shoot up where those of heads do."""
GUESS = math.log(2)
"""Cross-entropy of a guess between two classes."""
MIN_FALL = 0.2
"""The share of its whole fall by which the smoothed loss must have fallen, to be falling for good."""
MIN_DESCENT = 0.05
"""The share by which the loss must fall below where it began, for a slope to be more than noise."""
DIVIDED = {"minimum", "elbow"}
"""Suggestions that are a tenth of the rate that was read off the curve."""


@dataclass(frozen=True)
class Curve:
    """What a test recorded, one entry a step.

    Attributes:
        lrs: Rate of the step.
        losses: Loss before the step.
        smoothed: Debiased running mean of the losses.
        suggestions: Rate by name, whether it is to be trusted (:func:`fault`) or not; no ``elbow`` where none is.
        diverged: Whether the test ended because the loss shot up or was not finite.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool = False
    suggestions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ChosenRate:
    """What a range test decided for a phase.

    Attributes:
        lr: The phase's rate.
        reason: Why, in a sentence.
        curve: What was seen.
    """

    lr: LR
    reason: str
    curve: Curve


def choose(
    lr: LR, curve: Curve, unfrozen: bool, rule: tuple[float, float] | None = None, solved: bool = False
) -> ChosenRate:
    """Fill ``"find"``.

    A head's 3e-3, and the upper end of ``rule``, stay where the curve allows them (:func:`allowed`), else they move,
    and the lower end of ``rule`` with its upper. Below an upper rate that is given, unfrozen layers begin at the elbow,
    or at a tenth of the given rate where that is less. The elbow is itself a tenth of the rate before which the loss
    shoots up.

    Args:
        lr: The phase's rate with ``"find"`` in it.
        curve: With its suggestions.
        unfrozen: Whether more than the head trains.
        rule: Rates of unfrozen layers that a recipe would take without a range test; None: ``lr`` says the upper one.
        solved: The head fits its training images already. Its curve shows where it loses its fit, for a moment, at
            rates that train best; so ``rule`` stays, unless its loss is not finite there.
    """
    if not unfrozen:
        rate, reason = allowed(DEFAULT_LR, curve, MOST_HEAD)
        return ChosenRate(rate, reason, curve)
    if rule is not None:
        rate, reason = _finite(rule[1], curve) if solved else allowed(rule[1], curve)
        return ChosenRate((rate * rule[0] / rule[1], rate), reason, curve)
    high, wrong = Rates.of(lr).high(unfrozen), fault(curve, "elbow")
    if wrong is not None:
        return ChosenRate((high / 100, high), f"the lessons' default, as the curve {wrong}", curve)
    elbow = curve.suggestions["elbow"]
    if elbow >= high:
        reason = f"a tenth of the given rate, as the elbow is as late as {10 * elbow:.1e}"
        return ChosenRate((high / 10, high), reason, curve)
    return ChosenRate((elbow, high), f"a tenth of the elbow at {10 * elbow:.1e}", curve)


def allowed(lr: float, curve: Curve, most: float = math.inf) -> tuple[float, str]:
    """``lr`` where the curve allows it, else the nearest rate that it calls safe; and why, in a sentence.

    A rate is allowed if the loss shoots up neither before twice the rate nor only after a hundred times it. One that is
    too high falls to the elbow, one that is too low rises to a tenth of it.

    Args:
        lr: What is taken if the curve says nothing.
        curve: With its suggestions.
        most: A higher elbow is not trusted.
    """
    wrong, elbow = fault(curve, "elbow"), curve.suggestions.get("elbow", math.nan)
    if wrong is not None or elbow > most:
        return lr, f"the default, as the curve {wrong or f'shoots up only after {10 * elbow:.1e}'}"
    seen = f"the loss shoots up after {10 * elbow:.1e}"
    if lr > 5 * elbow:
        return elbow, f"lower than the default {lr:.1e}, as {seen}"
    if lr < elbow / 10:
        return elbow / 10, f"higher than the default {lr:.1e}, as {seen}"
    return lr, f"the default, which the curve allows: {seen}"


def _finite(lr: float, curve: Curve) -> tuple[float, str]:
    """``lr``, or a tenth of the rate at which the loss is not finite where that is below twice ``lr``; and why."""
    bad = curve.lrs[_finite_part(curve) :]
    if bad and bad[0] < 2 * lr:
        return bad[0] / 10, f"lower than the default {lr:.1e}, as the loss is not finite at {bad[0]:.1e}"
    return lr, "the default, as the curve of a head that was solved shows where it loses its fit, not what trains well"


def fault(curve: Curve, name: Suggestion) -> str | None:
    """Why the suggestion ``name`` cannot be trusted: what "the curve …"; None where it can."""
    losses = np.asarray(curve.smoothed)[: _finite_part(curve)]
    if len(losses) < MIN_POINTS:
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


def rates_between(start_lr: float, end_lr: float, num_steps: int) -> list[float]:
    """Rates that grow geometrically, ``start * (end / start) ** (i / n)``: the end itself is not reached.

    Raises:
        PhaseError: Rates that are not positive and growing, or fewer than 6 steps.
    """
    if not 0 < start_lr < end_lr < math.inf:
        raise PhaseError(f"Expected 0 < start_lr < end_lr, got start_lr={start_lr} and end_lr={end_lr}.")
    if num_steps < 6:
        raise PhaseError(f"Expected a range test of at least 6 steps, got num_steps={num_steps}.")
    return [start_lr * (end_lr / start_lr) ** (index / num_steps) for index in range(num_steps)]


def steps_of_test(steps_per_epoch: float) -> int:
    """How many steps a test over so much data makes: a hundred, or as many as four epochs have, or sixteen."""
    return int(min(FULL_STEPS, max(MIN_STEPS, EPOCHS * steps_per_epoch)))


def scaled(window: int, steps: int) -> int:
    """A number of steps of a full test, in one of ``steps`` over the same rates; at least one."""
    return max(1, round(window * min(1.0, steps / FULL_STEPS)))


def record_curve(step: Callable[[float], float], rates: Sequence[float], stop_div: float | None = STOP_DIV) -> Curve:
    """Call ``step`` with each rate until the loss shoots up.

    Args:
        step: Makes one optimizer step at the rate it is given; returns the loss before it.
        rates: In growing order; where they are fewer than a hundred, the running mean forgets as much faster.
        stop_div: Stop when the smoothed loss exceeds so many times its best; None only stops at a loss that is not
            finite.
    """
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, best, diverged = 0.0, math.inf, False
    beta = BETA ** max(1.0, FULL_STEPS / len(rates))
    for count, lr in enumerate(rates, start=1):
        loss = step(lr)
        mean = beta * mean + (1 - beta) * loss
        debiased = mean / (1 - beta**count)
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

    As in fastai, the first tenth of the planned steps and the last five of a hundred points are not looked at
    (``elbow`` looks at all).

    Args:
        curve: Of one test.
        num_steps: Steps that the test was to make; None: as many as the curve has.
    """
    finite, steps = _finite_part(curve), num_steps or len(curve.lrs)
    lrs, losses = np.asarray(curve.lrs)[:finite], np.asarray(curve.smoothed)[:finite]
    bend = elbow(lrs, curve.losses[:finite], scaled(ELBOW_REACH, steps)) if len(lrs) >= MIN_POINTS else None
    suggestions = {} if bend is None else {"elbow": bend}
    looked_at = slice(steps // 10, -scaled(SKIP_END, steps))
    lrs, losses = lrs[looked_at], losses[looked_at]
    if len(lrs) >= 2:  # a slope needs two
        for name, function in (("steep", steep), ("valley", valley), ("minimum", minimum)):
            suggestions[name] = function(lrs, losses)
        suggestions["slide"] = slide(lrs, losses, scaled(SLIDE_REACH, steps))
    return suggestions


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


def elbow(lrs: Sequence[float] | Array, losses: Sequence[float] | Array, reach: int = ELBOW_REACH) -> float | None:
    """A tenth of the last rate before the loss shoots up: what the lessons read off an unfrozen model's curve.

    Read off the losses themselves, because their running mean lags by decades. A running median shows the level; the
    elbow is its last point that is no higher above the lowest than a fifth of the fall, or than three times the noise
    where the curve is flat, or than the loss of a guess where it begins below that, as that of a solved head does: it
    cannot fall and soon rises, at rates that train well. The noise is that of the first third of the test (by median
    absolute deviation), in proportion to the level. None where the loss does not shoot up.

    Args:
        lrs: Rates of the steps.
        losses: Loss of each step, not smoothed.
        reach: Steps to each side that the median takes in; three in a test of a hundred.
    """
    x, y = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    level = np.array([np.median(y[max(0, i - reach) : i + reach + 1]) for i in range(len(y))])
    quiet = y[: max(3, len(y) // 3)]  # rates too small to do anything
    noise = 1.4826 * float(np.median(np.abs(quiet - np.median(quiet))))
    start, floor = float(np.median(quiet)), float(level.min())
    share = min(max(floor / start, 0.0), 1.0) if start > 0 else 1.0
    least = GUESS if start < GUESS else 0.0
    margin = max(ELBOW_FALL * (start - floor), ELBOW_NOISE * noise * share, least)
    if level[-1] <= floor + 2 * margin:
        return None
    return float(x[np.flatnonzero(level <= floor + margin)[-1]]) / 10


def slide(
    lrs: Sequence[float] | Array, losses: Sequence[float] | Array, lr_diff: int = SLIDE_REACH, threshold: float = 0.005
) -> float:
    """Where, coming from the right, the slope stops differing from the slope ``lr_diff`` points further left."""
    slopes = np.gradient(np.asarray(losses, dtype=float))
    right, left = -1, -1 - lr_diff
    rate = float(lrs[max(left, -len(lrs))])
    while left >= -len(slopes) and abs(slopes[right] - slopes[left]) > threshold:
        rate = float(lrs[left])
        right, left = right - 1, left - 1
    return rate
