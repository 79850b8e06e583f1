"""What the curves of a run in phases say: of a phase what it can be blamed for, of the whole run the rest."""

from __future__ import annotations

from lightning_finetune.engine.diagnosis import Curves, Finding, diagnose, longer_first
from lightning_finetune.engine.plan import Plan

OF_THE_RUN = ("learning rate too low", "too few epochs", "dead head")
"""What is not asked of a phase: a later one has little left to lose, and an earlier one is gone on with."""

FLOOR = 0.25
"""Part of the run's first loss that the first loss of a later phase counts as at least."""


def diagnose_phase(curves: Curves, plan: Plan, phase: int) -> list[Finding]:
    """What to look at in ``phase``, judged by its own curves.

    Args:
        curves: Of the whole run.
        plan: What it followed.
        phase: Its index.
    """
    if not curves.losses:
        return []
    now = _part(curves, plan, phase)
    floor = FLOOR * curves.losses[0] if phase else 0.0
    found = [finding for finding in diagnose(now, floor=floor) if finding.name not in OF_THE_RUN]
    if phase and (plan.trained(phase - 1) or plan.num_groups) < (plan.trained(phase) or plan.num_groups):
        healthy = not any(finding.fault for finding in diagnose_phase(curves, plan, phase - 1))
        found += longer_first(_part(curves, plan, phase - 1), now) if healthy else []
    return found


def diagnose_run(curves: Curves, plan: Plan | None, epochs: int) -> dict[int, list[Finding]]:
    """What to look at in a run.

    Args:
        curves: Of the whole run.
        plan: What it followed, if it followed any.
        epochs: How many have ended; a phase is judged when all of its have.

    Returns:
        Findings of the phases, by number from 1; the key 0 holds what the whole run says beside.
    """
    found: dict[int, list[Finding]] = {}
    if plan is not None and len(plan.phases) > 1:
        ends = [plan.first_epoch(phase) + (spec.epochs or 0) for phase, spec in enumerate(plan.phases)]
        found = {phase + 1: diagnose_phase(curves, plan, phase) for phase, end in enumerate(ends) if end <= epochs}
    told = {finding.name for findings in found.values() for finding in findings}
    return found | {0: [finding for finding in diagnose(curves) if finding.name not in told]}


def _part(curves: Curves, plan: Plan, phase: int) -> Curves:
    start = plan.start(phase)
    return curves.between(start, start + plan.steps[phase])
