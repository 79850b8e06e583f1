"""What the measures before and after an unfreezing say about it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from lightning_finetune.engine.diagnosis import Curves, Finding, metric_points, recent

WORSE, BEFORE = "unfreezing made it worse", "the best epoch was before the unfreezing"
TOO_LOW, TOO_SHORT = "rate of the unfrozen layers too low", "frozen phase too short"

_ADVICE = {
    WORSE: "Divide the rates of the unfrozen layers by 10, or train the head alone.",
    BEFORE: "Use the checkpoint of that epoch; divide the rates of the unfrozen layers by 3, or train the head alone.",
    TOO_LOW: "Multiply the rates of the unfrozen layers by 10; the measured recipe has 1e-4 at the input.",
    TOO_SHORT: "Give the head more epochs before the unfreezing.",
}
_HOLD = "Hold the statistics of the norm layers (train_norm=False)"
_WITH_NORMS = {
    WORSE: f"{_HOLD}, or divide the rates of the unfrozen layers by 10.",
    TOO_LOW: f"{_HOLD}, or multiply the rates of the unfrozen layers by 10.",
}


@dataclass(frozen=True)
class UnfreezingLimits:
    """From where on an unfreezing is at fault; ``benchmarks/diagnosis_phases.py`` shows how they were chosen.

    Attributes:
        loss: The validation loss ended this part above what it was before: it made things worse, if also
        metric: The metric ended this much below its best of before.
        fall: Less than this part of the training loss went while all trained, and
        gain: The validation loss changed by less than this part: rates too low, if there were
        steps: As many steps.
    """

    loss: float = 0.1
    metric: float = 0.02
    fall: float = 0.4
    gain: float = 0.15
    steps: int = 8


LIMITS = UnfreezingLimits()


@dataclass(frozen=True)
class Unfreezing:
    """The numbers that the rules compare; NaN where the run does not give them.

    Attributes:
        loss: Validation loss at the end over the last one before, less 1.
        metric: How far the metric ended from its best of before; above 0 it is worse.
        best: How far the best of it since lies from its best of before.
        fall: Part of the training loss that went since: of its median in the first quarter of the steps, in the last.
    """

    loss: float
    metric: float
    best: float
    fall: float


def compare(before: Curves, after: Curves) -> Unfreezing:
    """The numbers of an unfreezing.

    Args:
        before: All that was before it.
        after: The phase that begins with it.
    """
    losses = [[value for _, value in part.measured.get("val_loss", ())] for part in (before, after)]
    metrics = [[value for _, value in metric_points(part.measured)] for part in (before, after)]
    quarter = max(1, len(after.losses) // 4)
    first = statistics.median(after.losses[:quarter]) if after.losses else math.nan
    last = statistics.median(after.losses[-quarter:]) if after.losses else math.nan
    return Unfreezing(
        loss=recent(losses[1]) / losses[0][-1] - 1 if all(losses) and losses[0][-1] > 0 else math.nan,
        metric=recent(metrics[1]) - min(metrics[0]) if all(metrics) else math.nan,
        best=min(metrics[1]) - min(metrics[0]) if all(metrics) else math.nan,
        fall=1 - last / first if first > 0 else math.nan,
    )


def diagnose_unfreezing(
    before: Curves, after: Curves, train_norm: bool, limits: UnfreezingLimits = LIMITS
) -> list[Finding]:
    """What to look at in a phase in which more trains than before; at most one finding.

    Args:
        before: All that was before it.
        after: The phase.
        train_norm: Whether norm layers follow the batches, a usual cause.
        limits: The thresholds.
    """
    change, advice = compare(before, after), _WITH_NORMS if train_norm else _ADVICE
    if change.loss > limits.loss and (change.metric > limits.metric or math.isnan(change.metric)):
        was, until = before.measured["val_loss"][-1][1], recent([value for _, value in after.measured["val_loss"]])
        lost = "" if math.isnan(change.metric) else f", and the metric ended {change.metric:.3g} from its best before"
        evidence = f"The validation loss was {was:.3g} before it and ended at {until:.3g}{lost}."
        return [Finding(WORSE, evidence, advice[WORSE])]
    if len(after.losses) >= limits.steps and change.fall < limits.fall and abs(change.loss) < limits.gain:
        train, valid = (f"{max(part, 0):.0%}" for part in (change.fall, -change.loss))
        evidence = f"Since the unfreezing the training loss lost {train}, the validation loss {valid}."
        return [Finding(TOO_LOW, evidence, advice[TOO_LOW])]
    if change.best > 0:
        step = min(metric_points(before.measured), key=lambda point: point[1])[0]
        evidence = f"The metric was best at step {step}, and {change.best:.3g} from that at best since."
        return [Finding(BEFORE, evidence, _ADVICE[BEFORE], fault=False)]
    return []


def longer_first(before: Curves, after: Curves) -> list[Finding]:
    """Whether a frozen phase should have been longer: it ended while the validation loss was falling.

    Args:
        before: Of the frozen phase.
        after: Of the phase that follows it.
    """
    valid = [value for _, value in before.measured.get("val_loss", ())]
    following = [value for _, value in after.measured.get("val_loss", ())]
    if len(valid) > 1 and following and valid[-1] < 0.8 * valid[-2] and following[0] > valid[-1]:
        evidence = (
            f"In its last epoch the validation loss still went from {valid[-2]:.3g} to {valid[-1]:.3g}, and unfreezing "
            f"raised it to {following[0]:.3g}."
        )
        return [Finding(TOO_SHORT, evidence, _ADVICE[TOO_SHORT], fault=False)]
    return []
