"""The numbers from which the phases of a run are made where the user gives none.

``docs/recipe.md`` says how they were chosen and what they were measured against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.engine.resize import Size
from lightning_finetune.errors import PhaseError

RecipeName = Literal["measured", "lessons"]


@dataclass(frozen=True)
class Recipe:
    """What a run is made of, where nothing else is said.

    Attributes:
        head_epochs: Epochs in which only a new head trains; one that is solved needs none, and all layers get them.
        full_epochs: Epochs in which all layers train.
        lr: Peak rate of a head alone.
        lr_ratio: That rate over the peak of the epochs in which all layers train.
        spread: The head's rate over that of the input layers, while all train.
        train_norm: Whether norm layers follow the batches of the new images.
        clip: The norm that gradients are clipped to, if the Trainer does not say; None leaves them alone.
        solves: Whether a new head starts where it is best for the pretrained features.
    """

    head_epochs: int
    full_epochs: int
    lr: float = DEFAULT_LR
    lr_ratio: float = 6.0
    spread: float = 5.0
    train_norm: bool = False
    clip: float | None = 1.0
    solves: bool = True


RECIPES: dict[RecipeName, Recipe] = {
    "measured": Recipe(head_epochs=1, full_epochs=7),
    "lessons": Recipe(4, 4, lr_ratio=10.0, spread=100.0, train_norm=True, clip=None, solves=False),
}


@dataclass(frozen=True)
class Wishes:
    """What the user says of a run; what is None follows from the recipe.

    Attributes:
        epochs: Of each round, both kinds together.
        head_epochs: Epochs with only the head training; 0 leaves the phase out.
        full_epochs: Epochs with all layers training; 0 leaves the phase out.
        lr: Peak rate of a head alone.
        lr_ratio: That rate over the peak of the full phase that follows it.
        sizes: Image sizes in pixels, one round of both phases for each; None keeps the data's size.
        find: Whether the range test chooses the head's rate and the lower end of the full phase's.
    """

    epochs: int | None = None
    head_epochs: int | None = None
    full_epochs: int | None = None
    lr: float | None = None
    lr_ratio: float | None = None
    sizes: Sequence[int | Size] | None = None
    find: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        for name in ("epochs", "head_epochs", "full_epochs"):
            value = getattr(self, name)
            least = 1 if name == "epochs" else 0
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise PhaseError(f"Expected `{name}` to be a whole number of at least {least}, got {value!r}.")
        if None not in (self.epochs, self.head_epochs, self.full_epochs):
            raise PhaseError("Expected `epochs`, or `head_epochs` and `full_epochs`, got all three. Leave one out.")
        if self.lr_ratio is not None and self.lr_ratio <= 0:
            raise PhaseError(f"Expected `lr_ratio` to be positive, got {self.lr_ratio}.")


def make_phases(recipe: Recipe, wishes: Wishes, head_is_new: bool) -> list[Phase]:
    """The phases of a run: a new head at ``lr``, then all layers up to ``lr / lr_ratio``; again at each larger size.

    A head that began from random weights keeps its own rate while all layers train.
    Each larger size starts from a third of the rate before it, as in the lessons' segmentation notebook.

    Args:
        recipe: Says what the user does not.
        wishes: What the user says.
        head_is_new: Whether the head has random weights when training starts.
    """
    head_epochs, full_epochs = _epochs(recipe, wishes, head_is_new)
    once = recipe.solves and wishes.head_epochs is None  # a head is new at the first size alone
    lr = recipe.lr if wishes.lr is None else wishes.lr
    ratio = recipe.lr_ratio if wishes.lr_ratio is None else wishes.lr_ratio
    phases: list[Phase] = []
    for round_, size in enumerate(wishes.sizes or [None]):
        peak = lr / 3**round_
        high = peak if recipe.solves and head_is_new else peak / ratio  # a random head goes on learning from scratch
        if head_epochs and not (once and round_):
            phases.append(Phase(head_epochs, "head", "find" if wishes.find else peak, size))
        if full_epochs:
            phases.append(
                Phase(full_epochs, "all", ("find" if wishes.find else peak / ratio / recipe.spread, high), size)
            )
    return phases


def _epochs(recipe: Recipe, wishes: Wishes, head_is_new: bool) -> tuple[int, int]:
    """Epochs of the head alone, and of all layers."""
    total = recipe.head_epochs + recipe.full_epochs
    head = recipe.head_epochs if head_is_new or not recipe.solves else 0
    full = total - head
    if wishes.epochs is not None:
        given = wishes.epochs - wishes.full_epochs if wishes.full_epochs is not None else wishes.head_epochs
        head = math.ceil(wishes.epochs * head / total) if given is None else given
        full = wishes.epochs - head
    else:
        head = head if wishes.head_epochs is None else wishes.head_epochs
        full = full if wishes.full_epochs is None else wishes.full_epochs
    if head < 0 or full < 0 or head + full == 0:
        raise PhaseError(f"Expected epochs to train, got {head} of the head and {full} of all layers.")
    return head, full
