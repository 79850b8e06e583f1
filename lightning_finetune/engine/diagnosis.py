"""What a run's curves say about its learning rate and its length: the lessons' "things to look out for", as rules.

The lessons show the four cases on real runs: a rate too high (the validation loss explodes), too low (the loss creeps),
too few epochs (it still falls when the run ends), too many (the validation loss *and* the metric get worse; a training
loss below the validation loss alone is no fault). ``benchmarks/diagnosis.py`` chose the limits on half of its runs.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lightning_finetune.engine.metric_names import less_is_better
from lightning_finetune.errors import DataError

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Curves:
    """What a run has logged.

    Attributes:
        steps: Optimizer steps, ascending.
        losses: Training loss of each.
        measured: By name: steps and values of what was measured on the validation set, such as ``val_loss``.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    measured: Mapping[str, Points] = field(default_factory=dict)

    def between(self, start: int, end: int) -> Curves:
        """The part from step ``start`` up to, not including, ``end``; measures after the last step belong to it."""
        kept = [(step, loss) for step, loss in zip(self.steps, self.losses, strict=True) if start <= step < end]
        measured = {
            name: [point for point in points if start < point[0] <= end] for name, points in self.measured.items()
        }
        return Curves([step for step, _ in kept], [loss for _, loss in kept], measured)


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        name: ``"learning rate too high"`` and so on.
        evidence: Numbers and steps, in a sentence.
        advice: What to try, in a sentence.
        fault: Whether it hurts; else it is worth knowing.
    """

    name: str
    evidence: str
    advice: str
    fault: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence} {self.advice}"


@dataclass(frozen=True)
class Limits:
    """From where on a curve is at fault; chosen by ``benchmarks/diagnosis.py``.

    Attributes:
        rise: Smoothed training loss, at its highest, over that of the first step, or over the first validation loss of
            a run that begins with weights that fit: a rate too high.
        blow_up: Validation loss, at its highest, over the same: a rate too high.
        steps: With fewer, a loss that has not fallen does not say that the rate is too low.
        fall: Less than this part of the first loss is gone at the end: a rate too low.
        improving: Part of the validation loss that went between its last two measures: too few epochs; or, where it was
            measured once,
        falling: What went in the last third of the steps, as a part of the loss before it or of the first, whichever is
            more: weights that fit when the run begins may lose more in that third than they began with.
        worse: Validation loss at the end over its lowest, less 1: too many epochs, if also
        metric_worse: The metric lost this much from its best, and more than two of its steps: of an error rate over few
            images, one image is much.
    """

    rise: float = 2.0
    blow_up: float = 2.5
    steps: int = 30
    fall: float = 0.25
    improving: float = 0.15
    falling: float = 0.1
    worse: float = 0.15
    metric_worse: float = 0.02


LIMITS = Limits()
_NOTHING, _ROSE = 0.02, 1.08
_GUESS, _GAP = math.log(2), 40.0  # the loss of a guess between two classes; validation over training loss, at most
_DIP = 0.05  # part of the lowest validation loss that the end may lie above it
_IMAGE = 0.05  # what an image counts at most: of twenty
_FEW_STEPS = 4  # from which on curves say anything


@dataclass(frozen=True)
class Features:
    """The numbers that the rules compare; NaN where the run does not give them.

    Attributes:
        first: The first training loss.
        last: The last, smoothed.
        level: What a loss that rises is compared with.
        grain: The least difference between two values of the metric.
    """

    first: float
    last: float
    level: float
    rise: float
    blow_up: float
    fall: float
    improving: float
    falling: float
    worse: float
    metric_worse: float
    grain: float


def features(curves: Curves, floor: float = 0.0) -> Features:
    """The numbers of a run with at least four steps and finite losses.

    Args:
        curves: Of the run or phase.
        floor: What its first loss counts as at least; see :func:`diagnose`.
    """
    losses = list(curves.losses)
    smooth = _smoothed(losses)
    first = max(losses[0], floor)  # before any step was made; after one, a rate too high has raised it already
    third = len(smooth) // 3
    tail, last = statistics.fmean(smooth[-2 * third : -third]), statistics.fmean(smooth[-max(third // 3, 1) :])
    valid = [value for _, value in curves.measured.get("val_loss", ())]
    metric = [value for _, value in metric_points(curves.measured)]
    level = _level(first, valid)
    return Features(
        first=first,
        last=last,
        level=level,
        rise=max(smooth) / level,
        blow_up=max(valid) / level if valid else math.nan,
        fall=1 - last / first,
        improving=1 - valid[-1] / valid[-2] if len(valid) > 1 and valid[-2] > 0 else math.nan,
        falling=(tail - last) / max(first, tail),
        worse=recent(valid) / min(valid) - 1 if len(valid) > 1 and min(valid) > 0 else math.nan,
        metric_worse=recent(metric) - min(metric) if len(metric) > 1 else math.nan,
        grain=_grain(metric),
    )


def _level(first: float, valid: Sequence[float]) -> float:
    """What a rising loss is compared with: the first training loss, or the first validation loss where that fits.

    A head that was solved, or trained before, fits its training images from the first step on: their loss lies far
    below that of other images, and below that of a guess. A validation loss beyond that has blown up.
    """
    fits = first < _GUESS and valid and valid[0] < _GAP * first
    return max(first, valid[0]) if fits else first


def diagnose(curves: Curves, limits: Limits = LIMITS, floor: float = 0.0) -> list[Finding]:
    """What to look at in a run, or in one phase of it; the worst first, nothing where all is well.

    Args:
        curves: Of the run or phase.
        limits: The thresholds.
        floor: What the first loss counts as at least: a later phase begins with little, of which a multiple is no harm.
    """
    if bad := [step for step, loss in zip(curves.steps, curves.losses, strict=True) if not math.isfinite(loss)]:
        return [_finding("non-finite loss", f"The training loss is NaN or infinite at step {bad[0]}.")]
    if len(curves.losses) < _FEW_STEPS:
        return [_too_few_steps(curves)] if curves.losses else []
    if curves.losses[0] <= 0:  # of a loss that may be negative no ratio says much
        return []
    traits = features(curves, floor)
    return [*_faults(traits, curves, limits), *_notes(traits, curves)]


def _faults(traits: Features, curves: Curves, limits: Limits) -> list[Finding]:
    """At most one: the first that explains the curves."""
    killed = abs(traits.fall) < _NOTHING and traits.rise > _ROSE  # nothing learned, but not for want of movement
    # Weights that fit, and a run that ended at its best: what rose was the dip where the rate peaks.
    recovered = traits.level > traits.first and traits.worse < _DIP and not traits.metric_worse > traits.grain
    if (traits.rise > limits.rise or traits.blow_up > limits.blow_up or killed) and not recovered:
        return [_finding("learning rate too high", _rising(traits, curves))]
    if traits.worse > limits.worse and traits.metric_worse > max(limits.metric_worse, 2 * traits.grain):
        best_step, best = min(curves.measured["val_loss"], key=lambda point: point[1])
        return [
            _finding(
                "too many epochs",
                f"The validation loss was lowest ({best:.3g}) at step {best_step} and ended {traits.worse:.0%} above, "
                f"and the metric lost {traits.metric_worse:.3g} from its best.",
            )
        ]
    few = _made(curves) < limits.steps
    if traits.fall < limits.fall and not few and traits.level <= traits.first:  # weights that fit have little to lose
        name = "dead head" if abs(traits.fall) < 0.01 and _constant(curves.measured) else "learning rate too low"
        return [
            _finding(
                name,
                f"In {_made(curves)} steps the training loss went from {traits.first:.3g} to {traits.last:.3g}.",
            )
        ]
    if traits.improving > limits.improving:
        evidence = f"In the last epoch the validation loss still lost {traits.improving:.0%}."
        return [_finding("too few epochs", evidence)]
    if math.isnan(traits.improving) and traits.falling > limits.falling:
        evidence = f"In the last third of the steps the training loss still lost {traits.falling:.0%}."
        return [_finding("too few epochs", evidence)]
    return [_too_few_steps(curves)] if traits.fall < limits.fall and few else []


def _too_few_steps(curves: Curves) -> Finding:
    """In place of what so few steps cannot tell."""
    losses, made = curves.losses, _made(curves)
    evidence = (
        f"In {made} step{'s' * (made > 1)} the training loss went from {losses[0]:.3g} to {losses[-1]:.3g}, which says "
        "little about the learning rate."
    )
    return _finding("too few steps to judge", evidence, False)


def _made(curves: Curves) -> int:
    """Steps from the first to the last that was logged; of a long run, or of a CSV, not each was."""
    return curves.steps[-1] - curves.steps[0] + 1


def _rising(traits: Features, curves: Curves) -> str:
    """What rose, in a sentence."""
    top, valid = traits.rise * traits.level, [value for _, value in curves.measured.get("val_loss", ())]
    if top <= traits.first:
        return f"The training loss began at {traits.first:.3g}, and the validation loss rose to {max(valid):.3g}."
    also = f", the validation loss to {max(valid):.3g}" if valid else ""
    return f"The training loss began at {traits.first:.3g} and rose to {top:.3g}{also}."


def _others(count: int) -> str:
    return f" and at {count} other step{'s' * (count > 1)}" if count else ""


def _notes(traits: Features, curves: Curves) -> list[Finding]:
    """What is worth knowing and no fault."""
    notes = []
    smooth = _smoothed(list(curves.losses))
    # A head that was solved begins with next to no loss, and a batch with one hard image then looks like a spike.
    usual_on_others = [value for _, value in curves.measured.get("val_loss", ()) if math.isfinite(value)]
    least = max([traits.first, *(4 * value for value in usual_on_others)])
    spikes = [
        step
        for step, loss, usual in zip(curves.steps, curves.losses, smooth, strict=True)
        if loss > 4 * usual and loss > least
    ]
    if spikes:
        notes.append(
            _finding("loss spike", f"The training loss jumps at step {spikes[0]}{_others(len(spikes) - 1)}.", False)
        )
    if traits.worse > 0.15 and traits.metric_worse <= 0:
        evidence = f"The validation loss ended {traits.worse:.0%} above its lowest, but the metric is at its best."
        notes.append(_finding("train/valid gap", evidence, False))
    return notes


_ADVICE = {
    "non-finite loss": "Lower the learning rate, clip gradients, or use precision bf16-mixed in place of 16-mixed.",
    "learning rate too high": "Divide the learning rate by 10, or let the range test choose it.",
    "learning rate too low": "Multiply the learning rate by 10, or let the range test choose it.",
    "too many epochs": "Train for fewer epochs, or with more augmentation, dropout or weight decay.",
    "too few epochs": "Train for twice as many epochs.",
    "too few steps to judge": "Train for more epochs, or with a smaller batch: thirty steps tell if the rate fits.",
    "dead head": "Nothing is learned: look at the labels, at what is frozen, and at the learning rate of the head.",
    "loss spike": "Look at the images of that batch. If they are right and the loss recovers, leave it as it is.",
    "train/valid gap": "It gets surer, not worse; label smoothing or mixup would calm it.",
}


def _finding(name: str, evidence: str, fault: bool = True) -> Finding:
    return Finding(name, evidence, _ADVICE[name], fault)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """A running median, which one bad batch does not move."""
    reach = max(1, min(12, len(losses) // 10))
    return [statistics.median(losses[max(0, place - reach) : place + reach + 1]) for place in range(len(losses))]


def recent(values: Sequence[float]) -> float:
    """The mean of the last fifth."""
    return statistics.fmean(values[-max(1, len(values) // 5) :])


def metric_points(measured: Mapping[str, Points]) -> Points:
    """The first metric beside the loss, turned so that less is better; empty where there is none."""
    name = next((name for name in measured if name.startswith("val_") and "loss" not in name), None)
    if name is None:
        return ()
    return [(step, value if less_is_better(name) else -value) for step, value in measured[name]]


def _grain(metric: Sequence[float]) -> float:
    """The least difference between values of the metric: what an image counts, as far as they can tell; or 0."""
    values = sorted(set(metric))
    least = min((high - low for low, high in pairwise(values)), default=0.0)
    return least * (1 + 1e-6) if len(values) > 2 and least < _IMAGE else 0.0


def _constant(measured: Mapping[str, Points]) -> bool:
    names = [name for name in measured if "loss" not in name]
    return all(len({value for _, value in measured[name]}) == 1 for name in names)


def read_csv(path: str | Path) -> Curves:
    """The curves of a run from the ``metrics.csv`` of Lightning's ``CSVLogger``.

    Raises:
        DataError: It cannot be read, or holds no training loss.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        loss = next(
            (name for name in ("train_loss_step", "train_loss", "loss", "train_loss_epoch") if name in names), None
        )
        if loss is None or "step" not in names:
            raise DataError(f"{path}: expected columns `step` and `train_loss` (or `loss`), got {names}.")
        train = [(int(row["step"]), float(row[loss])) for row in rows if row[loss]]
        measured = {
            name: [(int(row["step"]) + 1, float(row[name])) for row in rows if row[name]]
            for name in names
            if name.startswith("val")
        }
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise DataError(f"{path}: expected the metrics.csv of a CSVLogger, got {reason}.") from error
    return Curves([step for step, _ in train], [value for _, value in train], measured)
