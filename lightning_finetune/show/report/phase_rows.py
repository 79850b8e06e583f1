"""The phases of a run as a table: what was planned of each, and what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_finetune.engine.history import History
from lightning_finetune.engine.plan import Plan
from lightning_finetune.show.charts import short

COLUMNS = ["epochs", "steps", "trains", "highest rates", "momentum", "size"]

_TRAINS = 0.5  # share of a group from which on it trains, and not its norm layers alone
_MOST = 3  # values that are listed before the rest is left out


@dataclass(frozen=True)
class PhaseRow:
    """One phase, or the whole of a run without phases.

    Attributes:
        name: What it is called.
        planned: By :data:`COLUMNS`, in words; empty where nothing was.
        actual: The same; empty where the phase has not begun.
        results: What was measured last in it, by name.
    """

    name: str
    planned: Mapping[str, str]
    actual: Mapping[str, str]
    results: Mapping[str, float]


def phase_rows(
    history: History, plan: Plan | None, planned: History | None, labels: Sequence[str], made: int
) -> list[PhaseRow]:
    """One row a phase; one in all where there are none.

    Args:
        history: What happened.
        plan: That says which phases there are.
        planned: What the plans of the run say of its steps.
        labels: What the phases are called.
        made: Optimizer steps so far.
    """
    if plan is None or planned is None:
        return [PhaseRow("the run", {}, _facts(history, 0, made, len(history.epochs)), _results(history, 0, made))]
    rows = []
    for phase, label in enumerate(labels):
        first, epochs = plan.first_epoch(phase), plan.phases[phase].epochs
        begun = history.epochs[first : None if epochs is None else first + epochs]
        after = history.epochs[first + len(begun) : first + len(begun) + 1]
        start, end = (begun[0], after[0] if after else made) if begun else (made, made)
        meant = _facts(planned, plan.start(phase), plan.start(phase) + plan.steps[phase], epochs)
        if plan.phases[phase].until is not None:
            limit = plan.limit(phase)
            meant |= {"epochs": f"up to {limit}", "steps": f"up to {_most(plan, phase)}"}
        actual = _facts(history, start, end, len(begun)) if end > start else {}
        rows.append(PhaseRow(label, meant, actual, _results(history, start, end)))
    return rows


def _most(plan: Plan, phase: int) -> int:
    """Steps of ``phase``, had it not ended by itself."""
    cut = plan.limit(phase) - (plan.phases[phase].epochs or 0)
    return plan.steps[phase] + cut * plan.epochs[plan.first_epoch(phase)].count


def _facts(history: History, start: int, end: int, epochs: int | None) -> dict[str, str]:
    """What holds from step ``start`` up to, not including, ``end``, in the words of :data:`COLUMNS`."""
    places = [place for place, step in enumerate(history.steps) if start <= step < end]
    momentum = [value for value in (history.momentum[place] for place in places) if value is not None]
    shares = [{name: column[place] for name, column in history.trained.items()} for place in places]
    sizes = (history.sizes[place] for place in places)
    return {
        "epochs": "" if epochs is None else str(epochs),
        "steps": str(end - start),
        "trains": _listed(map(_trains, shares)),
        "highest rates": _rates(history, places),
        "momentum": _ends(short(value) for value in (min(momentum), max(momentum))) if momentum else "",
        "size": _listed(f"{min(size)} px" for size in sizes if size is not None),
    }


def _trains(shares: Mapping[str, float]) -> str:
    trained = [name for name, share in shares.items() if share >= _TRAINS]
    rest = [share for name, share in shares.items() if name not in trained]
    partly = f" and up to {max(rest):.1%} of the others" if any(rest) else ""
    if not trained:
        return "nothing" + partly if shares else ""
    if len(trained) == len(shares):
        return f"all {len(shares)} groups" if len(shares) > 1 else trained[0]
    named = trained[0] if len(trained) == 1 else f"{trained[0]} to {trained[-1]}"
    return f"{named} ({len(trained)} of {len(shares)}){partly}"


def _rates(history: History, places: Sequence[int]) -> str:
    """The highest rate of the first and of the last group that trains."""
    peaks = []
    for name, column in history.rates.items():
        shares = history.trained.get(name)  # not known by this name where rates are not set by layer group
        rates = [column[place] for place in places if shares is None or shares[place] >= _TRAINS]
        peaks += [max(rates)] if any(rates) else []
    return _ends(rate(peak) for peak in (peaks[0], peaks[-1])) if peaks else ""


def rate(value: float) -> str:
    """A learning rate in two digits, ``3.0e-4``."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")


def _ends(words: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(words))


def _listed(words: Iterable[str]) -> str:
    """Each once, in order."""
    listed = [word for word in dict.fromkeys(words) if word]
    return ", then ".join([*listed[:_MOST], *(["…"] if len(listed) > _MOST else [])])


def _results(history: History, start: int, end: int) -> dict[str, float]:
    """What was measured last after a step of a phase."""
    within = {name: [point for point in points if start < point[0] <= end] for name, points in history.measured.items()}
    return {name: points[-1][1] for name, points in within.items() if points}
