"""What callbacks that show a run ask about its phases."""

from __future__ import annotations

import lightning.pytorch as pl

from lightning_finetune.callbacks import _trainer
from lightning_finetune.callbacks._phased import PhasedCallback
from lightning_finetune.pictures import Band
from lightning_finetune.plan import Plan
from lightning_finetune.resize import Size


def plan_of(trainer: pl.Trainer) -> Plan | None:
    """The plan with the most phases that the run follows, if it follows any."""
    followed = [callback for callback in _trainer.callbacks(trainer) if isinstance(callback, PhasedCallback)]
    plans = [callback._plan for callback in followed if callback._plan is not None]
    return max(plans, key=lambda plan: len(plan.phases), default=None)


def ends_phase(trainer: pl.Trainer) -> bool:
    """Whether the current epoch is the last of its phase; every epoch is where there are no phases."""
    plan = plan_of(trainer)
    epoch = trainer.current_epoch
    return plan is None or epoch + 1 == trainer.max_epochs or plan.phase_of(epoch) != plan.phase_of(epoch + 1)


def bands_of(plan: Plan | None) -> list[Band]:
    """The phases as bands of optimizer steps."""
    if plan is None:
        return []
    return [
        Band(plan.start(phase), plan.start(phase) + plan.steps[phase], phase_label(plan, phase))
        for phase in range(len(plan.phases))
    ]


def phase_label(plan: Plan, phase: int) -> str:
    """A phase in a few words: its number, what trains, at which size."""
    count = plan.trained(phase)
    if count is None:
        trains = ""
    elif count == plan.num_groups:
        trains = "all layers"
    else:
        trains = "head" if count == plan.num_head else f"last {count} groups"
    return f"{phase + 1}: " + ", ".join(part for part in (trains, _size_label(plan.phases[phase].size)) if part)


def _size_label(size: int | Size | None) -> str:
    if size is None:
        return ""
    return f"{size} px" if isinstance(size, int) else f"{size[0]}x{size[1]} px"
