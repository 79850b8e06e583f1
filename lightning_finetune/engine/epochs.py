"""How long epochs are, in optimizer steps, and which part of one lies behind a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Epoch:
    """One epoch of a run, in optimizer steps.

    Attributes:
        steps: That it had, or is expected to have; None: nobody knows yet.
        said: What the length of the data said before it began; None: it has no length.
        is_estimate: Whether ``steps`` is expected because an earlier epoch had as many, whatever the data say.
        made: Steps that it had when the run was resumed within it with other settings.
        part: Which part of the epoch those were.
    """

    steps: int | None
    said: int | None = None
    is_estimate: bool = False
    made: int = 0
    part: Fraction = Fraction(0)

    @property
    def count(self) -> int:
        """``steps``; one, where nobody knows."""
        return 1 if self.steps is None else self.steps

    def behind(self, step: int) -> Fraction:
        """Which part of the epoch lies before its step ``step`` (from 0); none of it, where nobody knows its length."""
        if self.steps is None or step <= 0:
            return Fraction(0)
        if step <= self.made:
            return self.part * Fraction(step, self.made)
        left = self.steps - self.made
        return self.part + (1 - self.part) * Fraction(min(step - self.made, left), left) if left > 0 else Fraction(1)


def expected(said: int | None, past: Sequence[Epoch]) -> Epoch:
    """The next epoch, by what its data say and by what they said of the last one, and whether that was true."""
    before = past[-1] if past else None
    if before is None or before.steps is None or before.made:  # of one with two lengths nothing follows
        return Epoch(said, said)
    if before.said == said != before.steps:
        return Epoch(before.steps, said, is_estimate=True)
    return Epoch(said, said)


def same_part(done: int, before: int, now: int) -> int:
    """How many of ``now`` batches are the part of an epoch that ``done`` of ``before`` batches are; never all."""
    return min(round(Fraction(done * now, before)), now - 1)
