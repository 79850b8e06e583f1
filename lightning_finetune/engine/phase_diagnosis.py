"""What the curves of a run in phases say: of a phase what it can be blamed for, of the whole run the rest."""

from __future__ import annotations

from lightning_finetune.engine.diagnosis import Curves, Finding, diagnose
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.unfreezing_diagnosis import TOO_LOW, WORSE, diagnose_unfreezing, longer_first

OF_THE_RUN = ("learning rate too low", "too few epochs", "dead head", "too few steps to judge")
"""What is not asked of a phase: a later one has little left to lose, and an earlier one is gone on with."""

FLOOR = 0.25
"""Part of the run's first loss that the first loss of a later phase counts as at least."""

REACHED = 0.5
"""Part of its peak that a cycle's highest rate must have: of two steps it has three quarters, of one step a 25th."""


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
