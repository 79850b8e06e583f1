"""From what is known of a run to its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lightning_finetune.engine.diagnosis import Finding
from lightning_finetune.engine.history import History
from lightning_finetune.engine.metric_names import less_is_better
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import Curve, Suggestion, fault
from lightning_finetune.show.charts import Chart, short
from lightning_finetune.show.curves import RunCharts, range_chart
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.report.phase_rows import COLUMNS, phase_rows, rate
from lightning_finetune.show.report.photos import Gallery

_MOST_RESULTS = 3  # columns of the table of phases that a screen holds


@dataclass(frozen=True)
class Outcome:
    """How a run ended, or that it goes on.

    Attributes:
        kind: In a word.
        text: How far it came, and why no further.
        error: What it failed with.
    """

    kind: Literal["running", "finished", "stopped", "failed"]
    text: str
    error: str = ""


@dataclass(frozen=True)
class RangeTest:
    """A range test of the run.

    Attributes:
        title: When it was made.
        curve: What it saw.
        chosen: The rate that was taken, or the ends of a slice; empty where none was.
        reason: Why.
        phase: Index of the phase whose rate it decided, where it decided one.
    """

    title: str
    curve: Curve
    chosen: Sequence[float] = ()
    reason: str = ""
    phase: int | None = None

    @property
    def chart(self) -> Chart:
        """Its curve."""
        return range_chart(self.curve, self.chosen)

    @property
    def suggestions(self) -> list[tuple[str, str, str]]:
        """Name, rate, and why it is not to be trusted."""
        names: list[Suggestion] = list(self.curve.suggestions)  # type: ignore[arg-type]  # its keys are those names
        faults = [fault(self.curve, name) for name in names]
        pairs = zip(names, faults, strict=True)
        return [(name, rate(self.curve.suggestions[name]), f"the curve {why}" if why else "") for name, why in pairs]


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        title: The task and its model.
        outcome: How the run ended.
        subject: What was trained on what, in short sentences.
        classes: Names of the classes.
        seconds: How long it trained.
        made: Optimizer steps.
        history: What happened.
        plan: Which phases there were, if there were any.
        planned: What the plans say of the steps.
        bands: The phases as bands of steps.
        findings: The diagnosis, by phase from 1; 0 is the whole run.
        range_tests: In order.
        predictions: The fixed sample.
        top_losses: The worst validation images.
        environment: Versions, machine, seed and so on.
        command: As it was typed.
        resume: How to go on, or to do it again: what for, and what to type.
        configuration: All of it.
    """

    title: str
    outcome: Outcome
    history: History
    seconds: float = 0.0
    made: int = 0
    subject: Sequence[str] = ()
    classes: Sequence[str] = ()
    plan: Plan | None = None
    planned: History | None = None
    bands: Sequence[Band] = ()
    findings: Mapping[int, Sequence[Finding]] = field(default_factory=dict)
    range_tests: Sequence[RangeTest] = ()
    predictions: Gallery = field(default_factory=Gallery)
    top_losses: Gallery = field(default_factory=Gallery)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    resume: tuple[str, str] = ("", "")
    configuration: str = ""


class Measured(NamedTuple):
    """A metric of the validation set: its last and its best value, and where that was."""

    name: str
    last: float
    best: float
    where: str


def render(report: Report) -> str:
    """The page as one HTML document that loads nothing."""
    charts = RunCharts(report.history, report.planned, report.bands, report.made)
    labels = [band.label for band in report.bands]
    rows = phase_rows(report.history, report.plan, report.planned, labels, report.made)
    values = measured(report)
    whole, single = _apart(values, report.classes)
    return _template().render(
        report=report,
        measured=[values for values in (whole, single) if values],
        chief=chief(values),
        losses=charts.losses() if report.history.steps else None,
        metrics=charts.metrics(value.name for value in whole if "loss" not in value.name),
        rates=charts.rates(),
        strips=charts.strips(),
        settings=list(filter(None, (charts.momentum(), charts.sizes()))),
        phases=rows,
        columns=COLUMNS,
        results=list(dict.fromkeys(name for row in rows for name in row.results))[:_MOST_RESULTS],
        reasons={test.phase: test.reason for test in report.range_tests if test.phase is not None},
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("lightning_finetune", "show/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "duration": duration}
    return environment.get_template("page.html")


def measured(report: Report) -> list[Measured]:
    """Every metric of the validation set, as they were logged."""
    best_of = []
    for name, points in report.history.measured.items():
        finite = [point for point in points if point[1] == point[1]] or points
        choose = min if less_is_better(name) else max
        step, best = choose(finite, key=lambda point: point[1])
        best_of.append(Measured(name, points[-1][1], best, _where(report, step)))
    return best_of


def _apart(values: Sequence[Measured], classes: Sequence[str]) -> tuple[list[Measured], list[Measured]]:
    """Metrics of the whole set, and those of one value a class."""
    single = [value for value in values if any(value.name.endswith(f"_{name}") for name in classes)]
    return [value for value in values if value not in single], single


def chief(values: Sequence[Measured]) -> Measured | None:
    """The metric that a run is known by: the first that is no loss, else the first."""
    return next((value for value in values if "loss" not in value.name), next(iter(values), None))


def _where(report: Report, step: int) -> str:
    """A number of steps made, in words."""
    epoch = report.history.epoch_of(step - 1)
    phase = next((place for place, band in enumerate(report.bands) if band.start < step <= band.end), None)
    parts = [
        "" if epoch is None else f"epoch {epoch + 1}",
        "" if phase is None or len(report.bands) < 2 else f"phase {phase + 1}",
        f"step {step}",
    ]
    return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """``1 h 2 min``, ``3 min 4 s`` or ``5.6 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
