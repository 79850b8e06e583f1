"""The plan and the results of a run as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_finetune.layer_groups import LayerGroup
from lightning_finetune.plan import Plan


def show_plan(plan: Plan, groups: Sequence[LayerGroup]) -> None:
    """Print one row a phase: epochs, steps, what trains, at which rates, along which schedule, at which size."""
    table = Table(title="Plan of the run", title_justify="left")
    for column in ("phase", "epochs", "steps", "trains", "learning rate", "schedule", "size"):
        table.add_column(column)
    for index, phase in enumerate(plan.phases):
        size = "the data's" if phase.size is None else f"{phase.size} px"
        row = (str(index + 1), _epochs(plan, index), str(plan.steps[index]), _trains(plan, index, groups))
        table.add_row(*row, _rates(plan, index), phase.schedule.replace("_", "-"), size)
    Console().print(table)


def show_results(plan: Plan, groups: Sequence[LayerGroup], results: Sequence[dict[str, float]]) -> None:
    """Print one row a phase: what trained, and the metrics at its last epoch."""
    names = sorted({name for metrics in results for name in metrics})
    table = Table(title="Phases and their results", title_justify="left")
    for column in ("phase", "epochs", "trained", "peak rate", *names):
        table.add_column(column)
    for index, metrics in enumerate(results):
        values = [f"{metrics[name]:.4f}" if name in metrics else "" for name in names]
        table.add_row(str(index + 1), _epochs(plan, index), _trains(plan, index, groups), _rates(plan, index), *values)
    Console().print(table)


def _epochs(plan: Plan, phase: int) -> str:
    first = plan.first_epoch(phase)
    count = plan.phases[phase].epochs
    return f"{first}+" if count is None else f"{first}" if count == 1 else f"{first}-{first + count - 1}"


def _trains(plan: Plan, phase: int, groups: Sequence[LayerGroup]) -> str:
    count = plan.trained(phase)
    if count is None:
        return "as it is"
    if count == len(groups):
        return f"all {count} groups"
    return f"{', '.join(group.name for group in groups[-count:])} ({count} of {len(groups)} groups)"


def _rates(plan: Plan, phase: int) -> str:
    rates = [rate for rate in plan.rates(phase) or () if rate > 0]
    if not rates:
        return "as it is"
    low, high = f"{rates[0]:.1e}", f"{rates[-1]:.1e}"
    return high if low == high else f"{low} to {high}"
