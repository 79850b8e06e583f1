"""What a phase says of its learning rates, parsed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_finetune.engine import schedules
from lightning_finetune.errors import PhaseError

DEFAULT_LR = 3e-3
"""The lessons' rate for a new head on a pretrained body."""

UNFROZEN_LR = DEFAULT_LR / 10
"""The lessons' upper rate where layers are unfrozen."""

Rate = float | Literal["find"]
LR = Rate | tuple[Rate | None, Rate] | list[float]


@dataclass(frozen=True)
class Rates:
    """One rate for all layer groups, the ends of a spread from the input to the head, or one rate per group.

    Attributes:
        values: One, two, or one per group; ``"find"`` where the range test decides, None for a tenth of the head's.
    """

    values: tuple[Rate | None, ...]

    @classmethod
    def of(cls, lr: LR) -> Rates:
        """Read what a user gives.

        Raises:
            PhaseError: It is neither a rate, nor a pair of rates, nor a list of them.
        """
        rates = cls(tuple(lr) if isinstance(lr, (tuple, list)) else (lr,))
        plain = all(value is None or isinstance(value, (int, float, str)) for value in rates.values)
        if not (plain and rates.values and rates._fits()):
            raise PhaseError(
                f'Expected `lr` of a phase to be a rate, a pair of rates, or "find" in place of a rate, got {lr!r}.'
            )
        low, high = rates.values[0], rates.values[-1]
        if isinstance(lr, tuple) and isinstance(low, float) and isinstance(high, float) and low > high:
            raise PhaseError(
                f"Expected `lr` of a phase as (low, high), the rates of the input and of the head, got {lr!r}. "
                f"Turn them round, or give one rate per layer group as a list."
            )
        if not rates.needs_find:
            rates.spread(len(rates.values))  # refuses what is not positive
        return rates

    def _fits(self) -> bool:
        numbers = self.numbers
        if not self.needs_find:
            return len(numbers) + self.values.count(None) == len(self.values)
        return len(self.values) <= 2 and self.values[-1] is not None and all(number > 0 for number in numbers)

    @property
    def numbers(self) -> list[float]:
        """The rates that are given, from the input to the head."""
        return [value for value in self.values if isinstance(value, (int, float))]

    @property
    def needs_find(self) -> bool:
        """Whether the range test has a rate to fill."""
        return "find" in self.values

    def high(self, unfrozen: bool) -> float:
        """The upper rate, or the lessons' where it is to be found."""
        last = self.values[-1]
        return last if isinstance(last, (int, float)) else UNFROZEN_LR if unfrozen else DEFAULT_LR

    @property
    def known(self) -> Rates:
        """With the lessons' rates in place of what is not found yet: a hundredth of the head's at the input."""
        if not self.needs_find:
            return self
        high = self.high(unfrozen=len(self.values) > 1)
        return Rates((*(high / 100 if value == "find" else value for value in self.values[:-1]), high))

    def spread(self, num_groups: int) -> list[float]:
        """One known rate for each layer group, by the rules of :func:`~lightning_finetune.engine.schedules.spread`."""
        values: list[float | None] = [value for value in self.known.values if value != "find"]
        return schedules.spread(values[0] if len(values) == 1 and values[0] is not None else values, num_groups)

    def is_by_group(self, num_groups: int) -> bool:
        """Whether each of ``num_groups`` layer groups has a rate of its own."""
        return len(self.values) == num_groups > 2

    def scaled(self, peak: float) -> LR:
        """The same with the highest rate at ``peak``, and the others in the same ratio to it."""
        if len(self.values) == 1:
            return peak
        factor = peak / max(self.numbers)
        if len(self.values) != 2:
            return [number * factor for number in self.numbers]
        low, high = (value * factor if isinstance(value, (int, float)) else value for value in self.values)
        return low, peak if high is None else high


def ends(lr: LR | None) -> Sequence[float]:
    """The numbers of ``lr``, from the input to the head."""
    return [] if lr is None else Rates.of(lr).numbers
