"""What the curves of a run in phases say: of a phase what it can be blamed for, of the whole run the rest.

``benchmarks/diagnosis_phases.py`` shows how the limits of an unfreezing were chosen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lightning_finetune.engine.diagnosis import Curves, Finding, diagnose, metric_points, recent
from lightning_finetune.engine.plan import Plan

OF_THE_RUN = ("learning rate too low", "too few epochs", "dead head", "too few steps to judge")
"""What is not asked of a phase: a later one has little left to lose, and an earlier one is gone on with."""

FLOOR = 0.25
"""Part of the run's first loss that the first loss of a later phase counts as at least."""

REACHED = 0.5
"""Part of its peak that a cycle's highest rate must have: of two steps it has three quarters, of one step a 25th."""


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

LOST, METRIC_LOST = 0.1, 0.02
"""Part of the validation loss, and of the metric, that an unfreezing cost at its end, where it made things worse."""

FEW_STEPS, FALL, GAIN = 8, 0.4, 0.15
"""After so many steps, less of the training loss is gone, and less of the validation loss: rates too low."""


def diagnose_phase(curves: Curves, plan: Plan, phase: int) -> list[Finding]:
    """What to look at in ``phase``, judged by its own curves and its own steps.

    Args:
        curves: Of the whole run.
        plan: What it followed.
        phase: Its index.
    """
    if not curves.losses:
        return []
    now = _part(curves, plan, phase)
    floor = FLOOR * curves.losses[0] if phase else 0.0
    findings = [finding for finding in diagnose(now, floor=floor) if finding.name not in OF_THE_RUN]
    if unfreezes(plan, phase):
        findings = _with_unfreezing(findings, curves, plan, phase)
    return [*findings, *unreached(plan, phase)]


def unfreezes(plan: Plan, phase: int) -> bool:
    """Whether more layers train in ``phase`` than in the one before it."""
    return phase > 0 and (plan.trained(phase - 1) or plan.num_groups) < (plan.trained(phase) or plan.num_groups)


def _with_unfreezing(findings: list[Finding], curves: Curves, plan: Plan, phase: int) -> list[Finding]:
    """``findings``, and what the unfreezing is to blame for; a rate too high explains all that follows it."""
    before, now = curves.between(0, plan.start(phase)), _part(curves, plan, phase)
    faults = [finding.name for finding in findings if finding.fault]
    if not set(faults) - {"too many epochs"}:
        also = diagnose_unfreezing(before, now, plan.train_norm)
        worse = any(finding.name == WORSE for finding in also)
        findings = [*(finding for finding in findings if not (worse and finding.name == "too many epochs")), *also]
    healthy = not any(finding.fault for finding in diagnose_phase(curves, plan, phase - 1))
    return [*findings, *(longer_first(_part(curves, plan, phase - 1), now) if healthy else [])]


def diagnose_unfreezing(before: Curves, after: Curves, train_norm: bool) -> list[Finding]:
    """What to look at in a phase in which more trains than before; at most one finding.

    Args:
        before: All that was before it.
        after: The phase.
        train_norm: Whether norm layers follow the batches, a usual cause.
    """
    advice = _WITH_NORMS if train_norm else _ADVICE
    was, now = _valid(before), _valid(after)
    loss = recent(now) / was[-1] - 1 if was and now and was[-1] > 0 else math.nan
    earlier, since = ([value for _, value in metric_points(part.measured)] for part in (before, after))
    metric = recent(since) - min(earlier) if earlier and since else math.nan
    if loss > LOST and not metric <= METRIC_LOST:
        lost = "" if math.isnan(metric) else f", and the metric ended {metric:.3g} from its best before"
        evidence = f"The validation loss was {was[-1]:.3g} before it and ended at {recent(now):.3g}{lost}."
        return [Finding(WORSE, evidence, advice[WORSE])]
    fall = _fall(after.losses)
    if len(after.losses) >= FEW_STEPS and fall < FALL and abs(loss) < GAIN:
        train, valid = (f"{max(part, 0):.0%}" for part in (fall, -loss))
        evidence = f"Since the unfreezing the training loss lost {train}, the validation loss {valid}."
        return [Finding(TOO_LOW, evidence, advice[TOO_LOW])]
    if earlier and since and min(since) > min(earlier):
        step = min(metric_points(before.measured), key=lambda point: point[1])[0]
        evidence = f"The metric was best at step {step}, and {min(since) - min(earlier):.3g} from that at best since."
        return [Finding(BEFORE, evidence, _ADVICE[BEFORE], fault=False)]
    return []


def _fall(losses: Sequence[float]) -> float:
    """Part of the training loss that went: of its median in the first quarter of the steps, in the last."""
    quarter = max(1, len(losses) // 4)
    first, last = (statistics.median(part or [math.nan]) for part in (losses[:quarter], losses[-quarter:]))
    return 1 - last / first if first > 0 else math.nan


def longer_first(before: Curves, after: Curves) -> list[Finding]:
    """Whether a frozen phase should have been longer: it ended while the validation loss was falling.

    Args:
        before: Of the frozen phase.
        after: Of the phase that follows it.
    """
    valid, following = _valid(before), _valid(after)
    if len(valid) > 1 and following and valid[-1] < 0.8 * valid[-2] and following[0] > valid[-1]:
        evidence = (
            f"In its last epoch the validation loss still went from {valid[-2]:.3g} to {valid[-1]:.3g}, and unfreezing "
            f"raised it to {following[0]:.3g}."
        )
        return [Finding(TOO_SHORT, evidence, _ADVICE[TOO_SHORT], fault=False)]
    return []


def _valid(curves: Curves) -> list[float]:
    return [value for _, value in curves.measured.get("val_loss", ())]


def unreached(plan: Plan, phase: int) -> list[Finding]:
    """Whether the cycle of ``phase`` has so few steps that none is made near its peak."""
    spec, steps = plan.phases[phase], plan.steps[phase]
    if spec.lr is None or steps > 3:
        return []
    peak = max(plan.rates(phase) or (0.0,))
    highest = max(max(plan.state(phase, step).lrs or (0.0,)) for step in range(steps))
    if highest >= REACHED * peak:
        return []
    evidence = f"Its cycle has {steps} step{'s' * (steps > 1)}, the highest of them at {highest:.1e}, not {peak:.1e}."
    advice = "Train for more epochs, or with a smaller batch, so that the phase has at least three steps."
    return [Finding("the peak is never reached", evidence, advice)]


def diagnose_run(curves: Curves, plan: Plan | None, epochs: int) -> dict[int, list[Finding]]:
    """What to look at in a run.

    Args:
        curves: Of the whole run.
        plan: What it followed, if it followed any.
        epochs: How many have ended; a phase is judged when all of its have.

    Returns:
        Findings of the phases, by number from 1; the key 0 holds what the whole run says beside.
    """
    by_phase: dict[int, list[Finding]] = {}
    if plan is not None and len(plan.phases) > 1:
        ends = [plan.first_epoch(phase) + (spec.epochs or 0) for phase, spec in enumerate(plan.phases)]
        by_phase = {phase + 1: diagnose_phase(curves, plan, phase) for phase, end in enumerate(ends) if end <= epochs}
    told = {finding.name for findings in by_phase.values() for finding in findings}
    if told & {WORSE, TOO_LOW}:
        told.add("too many epochs")  # the unfreezing explains it
    whole = diagnose(curves)
    if plan is not None and len(plan.phases) == 1 and curves.losses:
        whole += unreached(plan, 0)
    return by_phase | {0: [finding for finding in whole if finding.name not in told]}


def _part(curves: Curves, plan: Plan, phase: int) -> Curves:
    start = plan.start(phase)
    return curves.between(start, start + plan.steps[phase])
