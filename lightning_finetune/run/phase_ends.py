"""What callbacks that show a run ask about its phases."""

from __future__ import annotations

import os

import lightning.pytorch as pl
from torch.nn import Parameter

from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.resize import Size
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.trainer import callbacks
from lightning_finetune.show.figures.content import Band


def _followed(trainer: pl.Trainer) -> list[PhasedCallback]:
    return [callback for callback in callbacks(trainer) if isinstance(callback, PhasedCallback)]


def plans_of(trainer: pl.Trainer) -> list[Plan]:
    """The plans that the run follows, the one with the most phases first."""
    plans = [callback.current_plan for callback in _followed(trainer) if callback.current_plan is not None]
    return sorted(plans, key=lambda plan: -len(plan.phases))


def plan_of(trainer: pl.Trainer) -> Plan | None:
    """The plan with the most phases that the run follows, if it follows any."""
    return next(iter(plans_of(trainer)), None)


def layers_of(trainer: pl.Trainer) -> dict[str, list[Parameter]]:
    """The parameters of each layer group that the optimizer holds; empty where no callback made layer groups."""
    groupings = (callback.current_grouping for callback in _followed(trainer))
    grouping = next((one for one in groupings if one is not None), None)
    names = [] if grouping is None else [group.name for group in grouping.groups]
    return {} if grouping is None else dict(zip(names, grouping.layers, strict=True))


def size_on_device(trainer: pl.Trainer) -> Size | None:
    """Height and width that batches are resized to on their way into ``training_step``, where they are."""
    resizers = [one.resizer for one in _followed(trainer) if one.resizer is not None]
    return next((resizer.size for resizer in resizers if resizer.data is None), None)


def seed_of(trainer: pl.Trainer) -> int | None:
    """The seed that the run's draws come from; None where nobody set or drew one."""
    drawn = next((one.seed for one in _followed(trainer) if one.seed is not None), None)
    given = os.environ.get("PL_GLOBAL_SEED")
    return drawn if drawn is not None or given is None else int(given)


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
    spec = plan.phases[phase]
    length = "" if spec.epochs == plan.limits[phase] else f"{spec.epochs} of {plan.limit(phase)} epochs"
    parts = ", ".join(part for part in (trains, _size_label(spec.size), length) if part)
    return f"{phase + 1}: {parts}" if parts else f"{phase + 1}"


def _size_label(size: int | Size | None) -> str:
    if size is None:
        return ""
    return f"{size} px" if isinstance(size, int) else f"{size[0]}x{size[1]} px"
