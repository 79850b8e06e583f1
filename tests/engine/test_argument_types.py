"""Which values are of the kind that an annotation says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lightning_finetune.engine.argument_types import check_types, fits, in_words
from lightning_finetune.errors import FinetuneError, PhaseError

PAIR = tuple[int, int]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int),
        (np.int64(3), int),
        (3, float),
        (np.float32(0.5), float),
        (1, bool),
        (Path("x"), str | Path),
        ("a", Literal["a", "b"]),
        ([1, 2], PAIR),
        (np.array([1, 2]), Sequence[int]),
        ([1, 2], tuple[int, ...]),
        (pd.Series(["a", "b"]), Sequence[Any]),
        ((name for name in "ab"), Iterable[str]),
        ({0: 64, 1: (2, 3)}, dict[int, int | PAIR]),
        (print, Callable[[int], int]),
        (nn.Identity(), str | nn.Module),
        (None, int | None),
        (object(), Any),
    ],
)
def test_right(value, kind):
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (3.0, int),
        (torch.tensor(3), int),
        ("1e-3", float),
        (2, bool),
        (b"x", str),
        (1, Literal["a", "b"]),
        ("c", int | Literal["a", "b"]),
        (True, Literal[1]),
        ([1, 2, 3], PAIR),
        (np.array([1, 2]), PAIR),  # whose truth is neither of an empty nor of a full one
        ([1, "2"], list[int]),
        ("ab", Sequence[str]),
        ({"a"}, Sequence[str]),
        ("ab", Iterable[str]),
        ({"a": 64}, dict[int, int]),
        ([], Mapping[str, int]),
        (3, Callable[[int], int]),
        ("resnet", nn.Module),
        (None, int),
    ],
)
def test_wrong(value, kind):
    assert not fits(value, kind)


def test_an_error_names_the_argument_and_what_it_takes():
    def make(size: int | PAIR | None = None, *, rate: float = 1.0, way: Literal["crop", "squish"] = "crop"): ...

    check_types(make, {"size": (3, 4), "rate": 2, "unknown": object()})
    with pytest.raises(PhaseError, match=r"`size` to be a whole number, 2 values \(a whole.*\) or None, got '64'\."):
        check_types(make, {"size": "64"}, PhaseError)
    with pytest.raises(FinetuneError, match=r"`rate` to be a number, got \[0, 1.*\.\.\.\.$"):
        check_types(make, {"rate": list(range(999))})
    with pytest.raises(FinetuneError, match=r"`way` to be one of .*, got 'squash'\. Did you mean 'squish'\?"):
        check_types(make, {"way": "squash"})


def test_words():
    assert in_words(list[str] | Path) == "a list (text each) or a path"
    assert in_words(Literal["a", "b"] | nn.Module) == "one of ['a', 'b'] or of the class Module"
    assert in_words(Callable[[int], int]) == "a function"
