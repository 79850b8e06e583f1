"""A run as a list of phases: the one idea that all callbacks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_finetune.engine import schedules
from lightning_finetune.engine.resize import Size
from lightning_finetune.engine.schedules import Moms, Schedule
from lightning_finetune.errors import PhaseError

DEFAULT_LR = 3e-3
"""The lessons' rate for a new head on a pretrained body."""

Train = Literal["head", "all"] | int
Rate = float | Literal["find"]
LR = Rate | tuple[Rate | None, Rate] | list[float]


@dataclass(frozen=True)
class Phase:
    """A span of epochs in which the same layers train at the same image size, along one schedule.

    Attributes:
        epochs: How many; None lasts until the run ends (the last phase only).
        train: ``"head"``, ``"all"``, or how many layer groups, counted from the head; None leaves it alone.
        lr: Peak rate of every group, or ``(low, high)`` spread geometrically over the trained groups from the input to
            the head, or ``(None, high)``: the head at ``high``, the others at a tenth; ``"find"`` in place of a number
            asks the range test; a list gives one rate a group; None leaves the optimizer's rates alone.
        size: Shorter side of the training images, or height and width, in pixels; None leaves it alone.
        schedule: ``"one_cycle"``, ``"flat_cos"`` or ``"constant"``.
        pct_start: Share of the phase before the rate falls; None is the schedule's own: 0.25, 0.75.
        div: Peak over first rate.
        div_final: Peak over last rate.
        moms: Momentum (Adam's first beta) at the start, the peak and the end; None leaves it alone.
        weight_decay: Of the parameters that the optimizer decays; None is the optimizer's own.
        until: A metric of the validation. When it has not improved ``patience`` times, the phase ends with its epoch,
            at the latest after ``epochs``. One cycle is laid over ``epochs``, and cut; ``"flat_cos"`` falls then.
        patience: Validations in a row without improvement that end it.
        min_delta: Less than this is no improvement.
        mode: Whether the metric improves as it falls (``"min"``) or rises (``"max"``).
        restore_best: Whether what follows begins with weights, buffers and optimizer of the best validation.
        cooldown: Epochs in which ``"flat_cos"`` falls, in place of ``pct_start``; None with ``until``: as many as
            ``pct_start`` leaves of ``epochs``.
    """

    epochs: int | None
    train: Train | None = "all"
    lr: LR | None = DEFAULT_LR
    size: int | Size | None = None
    schedule: Schedule = "one_cycle"
    pct_start: float | None = None
    div: float = 25.0
    div_final: float = 1e5
    moms: Moms | None = (0.95, 0.85, 0.95)
    weight_decay: float | None = None
    until: str | None = None
    patience: int = 3
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"
    restore_best: bool = False
    cooldown: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        _check(self.epochs is None or _is_count(self.epochs), "epochs", "a positive whole number", self.epochs)
        named = self.train in ("head", "all", None)
        _check(
            named or _is_count(self.train), "train", '"head", "all" or a positive number of layer groups', self.train
        )
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,)
        _check(
            self.size is None or all(map(_is_count, sides)), "size", "a positive number of pixels, or two", self.size
        )
        _check(self.schedule in schedules.PCT_START, "schedule", f"one of {list(schedules.PCT_START)}", self.schedule)
        pct = self.pct_start
        _check(pct is None or 0 <= pct <= 1, "pct_start", "a share between 0 and 1", pct)
        _check(self.div >= 1, "div", "at least 1", self.div)
        _check(self.div_final >= 1, "div_final", "at least 1", self.div_final)
        _check(self.moms is None or _are_moms(self.moms), "moms", "three numbers in [0, 1)", self.moms)
        if self.lr is not None:
            fits = _is_findable(self.lr) if self.needs_find else _are_numbers(self.lr)
            _check(fits, "lr", 'a rate, a pair of rates, or "find" in place of a rate', self.lr)
        decay = self.weight_decay
        _check(decay is None or decay >= 0, "weight_decay", "a number of at least 0", decay)
        self._check_end()
        if self.lr is not None and not self.needs_find:
            schedules.spread(self.known_lr, len(self.lr) if isinstance(self.lr, list) else 2)

    def _check_end(self) -> None:
        _check(_is_count(self.patience), "patience", "a positive number of validations", self.patience)
        _check(self.min_delta >= 0, "min_delta", "a number of at least 0", self.min_delta)
        _check(self.mode in ("min", "max"), "mode", '"min" or "max"', self.mode)
        ends = self.until is None or self.epochs is not None
        _check(ends, "epochs", "a number where `until` is given, which ends it at the latest", self.epochs)
        _check(self.until is not None or not self.restore_best, "restore_best", "False without `until`", True)
        fits = self.cooldown is None or (_is_count(self.cooldown) and self.cooldown <= (self.epochs or 0))
        falls = self.cooldown is None or self.schedule == "flat_cos"
        _check(fits, "cooldown", "a positive number of epochs, at most those of the phase", self.cooldown)
        _check(falls, "cooldown", f'None, as schedule={self.schedule!r} does not fall like "flat_cos"', self.cooldown)

    @property
    def falls(self) -> int | None:
        """Epochs in which ``"flat_cos"`` falls, where they are a whole number; None: a share of the phase."""
        if self.schedule != "flat_cos" or (self.cooldown is None and self.until is None):
            return None
        share = 1 - schedules.warm_up(self.schedule, self.pct_start)
        return max(1, round((self.epochs or 1) * share)) if self.cooldown is None else self.cooldown

    @property
    def share(self) -> float | None:
        """``pct_start``, or what ``falls`` makes of it."""
        falls, epochs = self.falls, self.epochs
        return self.pct_start if falls is None or epochs is None else (epochs - falls) / epochs

    @property
    def needs_find(self) -> bool:
        """Whether the range test has a rate to fill."""
        return self.lr == "find" or (isinstance(self.lr, (tuple, list)) and "find" in self.lr)

    @property
    def known_lr(self) -> float | Sequence[float | None]:
        """The rate with the lessons' default in place of what is not found yet: a tenth of it where layers unfreeze."""
        if isinstance(self.lr, (tuple, list)):
            high = DEFAULT_LR / 10 if self.lr[-1] == "find" else self.lr[-1]
            return [_low(value, high) for value in self.lr[:-1]] + [high]
        return DEFAULT_LR if self.lr == "find" or self.lr is None else self.lr


def scaled(lr: LR, peak: float) -> LR:
    """``lr`` with its highest rate at ``peak``, and the others in the same ratio to it."""
    if not isinstance(lr, (tuple, list)):
        return peak
    factor = peak / max(value for value in lr if isinstance(value, (int, float)))
    values = [value * factor if isinstance(value, (int, float)) else value for value in lr]
    return tuple(values) if isinstance(lr, tuple) else values  # type: ignore[return-value]


def _low(value: Rate | None, high: Rate | None) -> float | None:
    """A hundredth of the head's rate where the lower end is not found yet, as ``fine_tune`` has it."""
    if value != "find":
        return value
    return high / 100 if isinstance(high, (int, float)) else DEFAULT_LR / 1000


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise PhaseError(f"Expected `{name}` of a phase to be {expected}, got {got!r}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_moms(moms: Sequence[float]) -> bool:
    return len(moms) == 3 and all(0 <= value < 1 for value in moms)


def _are_numbers(lr: LR) -> bool:
    values = lr if isinstance(lr, (tuple, list)) else (lr,)
    return all(value is None or isinstance(value, (int, float)) for value in values)


def _is_findable(lr: LR) -> bool:
    values = lr if isinstance(lr, (tuple, list)) else (lr, lr)
    numbers = [value for value in values if isinstance(value, (int, float))]
    return len(values) == 2 and values[1] is not None and all(number > 0 for number in numbers)
