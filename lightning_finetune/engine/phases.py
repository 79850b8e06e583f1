"""A run as a list of phases: the one idea that all callbacks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from lightning_finetune.engine import schedules
from lightning_finetune.engine.argument_types import check_types, warn_of_mode, warn_unused
from lightning_finetune.engine.rates import DEFAULT_LR, LR, Rates
from lightning_finetune.engine.resize import Size
from lightning_finetune.engine.schedules import Moms, Schedule
from lightning_finetune.errors import PhaseError

Train = Literal["head", "all"] | int


@dataclass(frozen=True, repr=False)
class Phase:
    """A span of epochs in which the same layers train at the same image size, along one schedule.

    Attributes:
        epochs: How many; None lasts until the run ends (the last phase only).
        train: ``"head"``, ``"all"``, or how many layer groups, counted from the head; None leaves it alone.
        lr: Peak rate of every group, or ``(low, high)`` spread geometrically over the trained groups from the input to
            the head, or ``(None, high)``: the head at ``high``, the others at a tenth; ``"find"`` in place of a number
            asks the range test; a list gives one rate per group; None leaves the optimizer's rates alone.
        size: Shorter side of the training images, or height and width, in pixels; None leaves it alone.
        schedule: ``"one_cycle"``, ``"flat_cos"`` or ``"constant"``; or a function from the progress of the phase, in
            [0, 1), to the part of the peak.
        pct_start: Share of the phase before the rate falls; None is the schedule's own: 0.25, 0.75.
        div: Peak over first rate.
        div_final: Peak over last rate.
        moms: Momentum (Adam's first beta) at the start, the peak and the end; None leaves it alone.
        weight_decay: For the parameters that the optimizer decays; None is the optimizer's own.
        until: A metric of the validation. If it has not improved ``patience`` times, the phase ends after this epoch,
            and at the latest after ``epochs``. ``"one_cycle"`` spans ``epochs`` and is cut; ``"flat_cos"`` then falls.
        patience: Number of validations in a row without improvement after which the phase ends.
        min_delta: A smaller change is no improvement.
        mode: Whether the metric improves when it falls (``"min"``) or rises (``"max"``).
        restore_best: Whether the next phase starts with weights, buffers and optimizer of the best validation.
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
        spoken_of_below = ("epochs", "train", "lr", "size")
        check_types(Phase, {k: value for k, value in vars(self).items() if k not in spoken_of_below}, PhaseError)
        self._check("epochs", self.epochs is None or _is_count(self.epochs), "a positive whole number")
        named = self.train is None or (isinstance(self.train, str) and self.train in ("head", "all"))
        self._check("train", named or _is_count(self.train), '"head", "all" or a positive number of layer groups')
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,)
        self._check("size", self.size is None or all(map(_is_count, sides)), "a positive number of pixels, or two")
        schedules.check(self.schedule)
        self._check("pct_start", 0 <= (self.pct_start or 0) <= 1, "a share between 0 and 1")
        self._check("div", self.div >= 1, "at least 1")
        self._check("div_final", self.div_final >= 1, "at least 1")
        moms = self.moms or (0.0, 0.0, 0.0)
        self._check("moms", len(moms) == 3 and all(0 <= value < 1 for value in moms), "three numbers in [0, 1)")
        self._check("weight_decay", (self.weight_decay or 0) >= 0, "a number of at least 0")
        self._check_end()
        self.rates  # noqa: B018  # refuses what is none
        self._warn()

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PhaseError(f"Expected `{name}` of a phase to be {expected}, got {getattr(self, name)!r}.")

    def __repr__(self) -> str:
        """The call that makes it, without what is left at its default."""
        given = [(each.name, getattr(self, each.name)) for each in fields(self)[2:]]
        defaults = {each.name: each.default for each in fields(self)}
        words = [f"{name}={value!r}" for name, value in given if name == "lr" or value != defaults[name]]
        return f"Phase({', '.join([repr(self.epochs), repr(self.train), *words])})"

    def _check_end(self) -> None:
        self._check("patience", _is_count(self.patience), "a positive number of validations")
        self._check("min_delta", self.min_delta >= 0, "a number of at least 0")
        ends = self.until is None or self.epochs is not None
        self._check("epochs", ends, "a number where `until` is given, which ends it at the latest")
        for name, nothing in (("patience", 3), ("min_delta", 0.0), ("mode", "min"), ("restore_best", False)):
            unused = self.until is None and getattr(self, name) != nothing
            self._check(name, not unused, f"{nothing!r} without `until`")
        if self.cooldown is not None:
            fits = _is_count(self.cooldown) and self.cooldown <= (self.epochs or 0)
            self._check("cooldown", fits, "a positive number of epochs, at most those of the phase")
            self._check("cooldown", self.pct_start is None, "None with `pct_start`")
            falls = self.schedule == "flat_cos"
            self._check("cooldown", falls, f'None, as schedule={self.schedule!r} does not fall like "flat_cos"')

    def _warn(self) -> None:
        """Warn of what the shape of the schedule leaves no use for, and of a metric in the wrong direction."""
        warn_of_mode("Phase", self.until or "", self.mode)
        shapes: dict[str, tuple[object, ...]] = {
            "pct_start": (None,),
            "div": (25.0,),
            "div_final": (1e5,),
            "moms": ((0.95, 0.85, 0.95), None),
        }
        if self.lr is None:
            warn_unused("Phase", vars(self), shapes, "lr=None leaves rates and momentum alone")
            return
        used = {"one_cycle": {*shapes}, "flat_cos": {"pct_start", "div_final"}, "constant": set()}
        uses = used[self.schedule] if isinstance(self.schedule, str) else {"pct_start"}  # which a diagnosis reads
        unused = {name: silent for name, silent in shapes.items() if name not in uses}
        warn_unused("Phase", vars(self), unused, f"the schedule is {schedules.title(self.schedule)}")

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

    @cached_property
    def rates(self) -> Rates | None:
        """What ``lr`` says."""
        return None if self.lr is None else Rates.of(self.lr)

    @property
    def needs_find(self) -> bool:
        """Whether the range test has a rate to fill."""
        return self.rates is not None and self.rates.needs_find

    @property
    def known_lr(self) -> float | Sequence[float | None]:
        """``lr`` with the lessons' rates in place of what is not found yet."""
        values = (Rates((DEFAULT_LR,)) if self.rates is None else self.rates.known).values
        known = [value for value in values if value != "find"]
        return known if len(known) > 1 or known[0] is None else known[0]


def spans(changes: dict[int, Any], what: str) -> list[tuple[int | None, Any]]:
    """``{0: a, 4: b}`` as ``[(4, a), (None, b)]``: how long each value holds, in epochs.

    Raises:
        PhaseError: No value for epoch 0, or epochs that are not whole numbers from 0.
    """
    if not isinstance(changes, dict) or not all(isinstance(epoch, int) and epoch >= 0 for epoch in changes):
        raise PhaseError(f"Expected {what} as {{epoch: value}} with epochs from 0, got {changes!r}.")
    if 0 not in changes:
        raise PhaseError(f"Expected {what} to say what holds from epoch 0 on, got the epochs {sorted(changes)}.")
    starts: Sequence[int] = sorted(changes)
    ends = [*starts[1:], None]
    return [(None if end is None else end - start, changes[start]) for start, end in zip(starts, ends, strict=True)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
