"""The plan and the results of a run as tables on the terminal, for 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import rich
from rich import box
from rich.table import Table

from lightning_finetune.engine import schedules
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import ChosenRate
from lightning_finetune.engine.rates import ends
from lightning_finetune.engine.resize import Size

if TYPE_CHECKING:
    import pandas as pd  # heavy, and only its name is needed

_MOST_METRICS = 3  # what 80 columns hold


def show_plan(plan: Plan, names: Sequence[str]) -> None:
    """Print one row per phase: epochs, steps, what trains, at which rates, along which schedule, at which size."""
    columns, rows = plan_rows(plan, names)
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    _print("Plan of the run", table, *plan_notes(plan))


def plan_notes(plan: Plan) -> list[str]:
    """What of a plan is not certain, in sentences."""
    notes = []
    if any(epoch.steps is None for epoch in plan.epochs):
        notes.append("?: the data say no length, so that steps are known after the first epoch, and rates follow them.")
    elif any(map(plan.is_estimate, range(len(plan.phases)))):
        notes.append("~: an estimate, as the epoch before had other steps than its data said; rates follow what comes.")
    for phase, spec in enumerate(plan.phases):
        if spec.until is not None:
            way = f"when {spec.until} has not improved for {spec.patience} validation{'s' * (spec.patience != 1)}"
            if spec.falls is not None:
                way += f", and a fall over {spec.falls} epoch{'s' * (spec.falls != 1)}"
            elif spec.schedule != "constant":
                way += ", which cuts its schedule"
            notes.append(f"Phase {phase + 1} may end before its {plan.limit(phase)} epochs: {way}.")
    return notes


def plan_rows(plan: Plan, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of a plan."""
    some = {name: words for name, words in _SET_BY_SOME.items() if any(map(words, plan.phases))}
    rows = []
    for index, phase in enumerate(plan.phases):
        row = [str(index + 1), _epochs(plan, index), _steps(plan, index), _trains(plan, index, names)]
        row += [rates(plan, index), schedules.title(phase.schedule)]
        rows.append([*row, *(words(phase) or "as is" for words in some.values())])
    return ["phase", "epochs", "steps", "trains", "learning rate", "schedule", *some], rows


# Columns of a plan of which a phase says something, in its words; empty where it leaves that alone.
_SET_BY_SOME: dict[str, Callable[[Phase], str]] = {
    "size": lambda phase: size_label(phase.size),
    "weight decay": lambda phase: "" if phase.weight_decay is None else f"{phase.weight_decay:g}",
}


def show_results(
    plan: Plan, names: Sequence[str], results: Sequence[dict[str, float]], chosen: Mapping[int, ChosenRate]
) -> None:
    """Print one row per phase: what trained, and the metrics at its last epoch; then why which rate.

    Of more metrics than fit, what validation measured stays, its loss first.
    """
    seen = dict.fromkeys(name for metrics in results for name in metrics)
    measured = sorted(seen, key=_importance)[:_MOST_METRICS]  # stable: else as they were logged
    table = _table("phase", "epochs", "trained", *measured)
    for index, metrics in enumerate(results):
        values = [f"{metrics[name]:.4f}" if name in metrics else "" for name in measured]
        table.add_row(str(index + 1), _epochs(plan, index), _trains(plan, index, names), *values)
    reasons = (f"Phase {phase + 1} at {rates(plan, phase)}: {chosen[phase].reason}." for phase in sorted(chosen))
    _print("Phases and their results", table, *reasons)


def result_rows(plan: Plan, results: Sequence[dict[str, float]]) -> tuple[list[str], list[list[float | int | str]]]:
    """Columns and rows of the phases that a run had: their planned and their real lengths, and all metrics."""
    names = list(dict.fromkeys(name for metrics in results for name in metrics))
    rows: list[list[float | int | str]] = []
    for phase, metrics in enumerate(results):
        lengths = [phase + 1, plan.limit(phase), plan.phases[phase].epochs or 0, plan.steps[phase]]
        rows.append([*lengths, *(metrics.get(name, "") for name in names)])
    return ["phase", "planned epochs", "epochs", "steps", *names], rows


def _importance(name: str) -> tuple[bool, bool]:
    """What validation measured first; of what training logs by step this is the last step alone."""
    return name.startswith("train"), "loss" not in name


def show_suggestions(chosen: ChosenRate) -> None:
    """Print what a range test suggests, and which rates are chosen from it."""
    table = _table("suggestion", "rate")
    for name, lr in chosen.curve.suggestions.items():
        table.add_row(name, f"{lr:.2e}")
    taken = f"Take {' to '.join(map(_rate, ends(chosen.lr)))}: {chosen.reason}."
    _print("Learning rates that the curve suggests", table, taken)


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _print(title: str, table: Table, *notes: str) -> None:
    console = rich.get_console()  # that of a progress bar, which moves aside; a second one would be overwritten
    console.print(title, style="bold", highlight=False)  # Rich's own title is broken to the width of the columns
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _steps(plan: Plan, phase: int) -> str:
    first, count = plan.first_epoch(phase), plan.phases[phase].epochs
    if any(epoch.steps is None for epoch in plan.epochs[first : None if count is None else first + count]):
        return "?"
    most = "<= " if plan.is_open(phase) else ""
    return f"{most}{'~' if plan.is_estimate(phase) else ''}{plan.steps[phase]}"


def size_label(size: int | Size | None) -> str:
    """The size of images; nothing where it is left alone."""
    if size is None:
        return ""
    return f"{size} px" if isinstance(size, int) else f"{size[0]}x{size[1]} px"


def _epochs(plan: Plan, phase: int) -> str:
    first = plan.first_epoch(phase) + 1
    count = plan.phases[phase].epochs
    if count is None:
        return f"{first}+"
    planned = f" ({count} of {plan.limit(phase)})" if count != plan.limit(phase) else ""
    return f"{first}{planned}" if count == 1 else f"{first}-{first + count - 1}{planned}"


def _trains(plan: Plan, phase: int, names: Sequence[str]) -> str:
    count = plan.trained(phase)
    if count is None:
        return "as it is"
    if count == len(names):
        return f"all {count} groups"
    named = names[-1] if count == 1 else f"{names[-count]} to {names[-1]}"
    return f"{named} ({count} of {len(names)})"


def rates(plan: Plan, phase: int) -> str:
    """The peak rates of a phase, from the input to the head."""
    given = plan.phases[phase].rates
    if given is not None and given.needs_find:
        return " to ".join(_rate(value) for value in given.values)
    trained = [rate for rate in plan.rates(phase) or () if rate > 0]
    if not trained:
        return "as it is"
    return " to ".join(dict.fromkeys(_rate(rate) for rate in (trained[0], trained[-1])))


def _rate(value: object) -> str:
    return f"{value:.1e}" if isinstance(value, (int, float)) else str(value)


def show_table(title: str, frame: pd.DataFrame) -> None:
    """Print a data frame, numbers with three decimals."""
    table = _table(*map(str, frame.columns))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    _print(title, table)
