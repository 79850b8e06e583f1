"""A plan as a cell of a notebook shows it: a table, and a figure on request; and its phases in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING

from lightning_finetune.engine.plan import Plan
from lightning_finetune.show.epoch_lines import html_table
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.terminal import plan_notes, plan_rows, size_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed


class ShownPlan(Plan):
    """A plan that shows itself."""

    @classmethod
    def of(cls, plan: Plan) -> ShownPlan:
        """The same plan."""
        return cls(**{field.name: getattr(plan, field.name) for field in fields(plan)})

    def plot(self, names: Sequence[str] | None = None) -> Figure:
        """The learning rate of each layer group over the run, and the momentum.

        Args:
            names: Of the layer groups, from the input to the head.
        """
        from lightning_finetune.show.figures.whole_run import draw_plan  # only now, as it loads matplotlib

        return draw_plan(self, self._names() if names is None else names, bands_of(self))

    def __repr__(self) -> str:
        columns, rows = plan_rows(self, self._names())
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        padded = [map(str.ljust, cells, widths) for cells in (columns, *rows)]
        return "\n".join([*("  ".join(cells).rstrip() for cells in padded), *plan_notes(self)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in plan_notes(self))
        return html_table(*plan_rows(self, self._names())) + notes

    def _names(self) -> list[str]:
        """Of the layer groups, where no model says them."""
        body = [f"group {place + 1}" for place in range(self.num_groups - self.num_head)]
        return [*body, *["head"] * min(self.num_head, 1), *(f"head {place + 2}" for place in range(self.num_head - 1))]


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
    parts = ", ".join(part for part in (trains, size_label(spec.size), length) if part)
    return f"{phase + 1}: {parts}" if parts else f"{phase + 1}"
