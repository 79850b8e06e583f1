"""An argument that changes nothing beside another is said; what a saved configuration holds of defaults is not."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_finetune import FineTune, ImageClassifier, ImageData, OneCycle, Phase, UNetSegmenter
from lightning_finetune.errors import PhaseError

TWO = [Phase(1, "head"), Phase(1, "all")]


class Net(nn.Sequential):
    """Gives 3 outputs itself."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


CASES = {
    "head_epochs=2": lambda: FineTune(TWO, head_epochs=2),
    "full_epochs=2": lambda: FineTune(TWO, full_epochs=2),
    "lr=0.1": lambda: FineTune(TWO, lr=0.1),
    "lr_ratio=3.0": lambda: FineTune(TWO, lr_ratio=3.0),
    "sizes=[64]": lambda: FineTune(TWO, sizes=[64]),
    "find=True": lambda: FineTune(TWO, find=True),
    "epochs=7": lambda: FineTune(TWO, epochs=7),
    "div=10.0": lambda: Phase(2, schedule="flat_cos", div=10.0),
    "div_final=10.0": lambda: Phase(2, schedule="constant", div_final=10.0),
    "pct_start=0.3": lambda: Phase(2, schedule="constant", pct_start=0.3),
    "pct_start=0.5": lambda: Phase(2, lr=None, pct_start=0.5),
    "div=5.0": lambda: Phase(2, schedule=abs, div=5.0),
    "moms=(0.9, 0.8, 0.9)": lambda: OneCycle(1e-3, schedule="flat_cos", moms=(0.9, 0.8, 0.9)),
    "head='concat_pool'": lambda: ImageClassifier(Net(), num_classes=3, head="concat_pool"),
    "dropout=0.2": lambda: ImageClassifier(Net(), num_classes=3, dropout=0.2),
    "backbone='resnet18'": lambda: UNetSegmenter(nn.Conv2d(3, 3, 1), num_classes=3, backbone="resnet18"),
}


@pytest.mark.parametrize("words", CASES)
def test_an_argument_that_changes_nothing_is_said(words: str) -> None:
    with pytest.warns(UserWarning, match="does not use .*, because") as said:
        CASES[words]()
    ours = [one for one in said if words in str(one.message)]
    assert [one.filename for one in ours] == [__file__], "at the line of the user"


def test_tables_and_data_sets_say_what_they_do_not_read(tmp_path: Path) -> None:
    for k in range(8):
        Image.fromarray(np.full((40, 40, 3), 30 * k, np.uint8)).save(tmp_path / f"{k}.png")
    table = pd.DataFrame({"file": [f"{k}.png" for k in range(8)], "label": list("abababab"), "n": range(8)})
    table["valid"] = [False, False, True, True] * 2
    with pytest.warns(UserWarning, match="does not use label_col='label', label_delim=' ', because `numbers`"):
        ImageData.from_df(table, tmp_path, label_col="label", label_delim=" ", numbers="n")
    with pytest.warns(UserWarning, match=r"does not use valid_pct=0.5, because `valid_col`"):
        ImageData.from_df(table, tmp_path, valid_col="valid", valid_pct=0.5)
    pairs = [(torch.zeros(3, 32, 32, dtype=torch.uint8), k % 2) for k in range(8)]
    with pytest.warns(UserWarning, match=r"does not use valid_pct=0.5, because `valid`"):
        ImageData.from_dataset(pairs, pairs, valid_pct=0.5)
    for name in "ab":
        (tmp_path / "classes" / name).mkdir(parents=True)
        for k in range(4):
            (tmp_path / "classes" / name / f"{k}.png").write_bytes((tmp_path / f"{k}.png").read_bytes())
    with pytest.warns(UserWarning, match=r"does not use codes=\['x', 'y'\], because there are no `masks`"):
        ImageData.from_folder(tmp_path / "classes", codes=["x", "y"])


def test_defaults_of_saved_configurations_are_not_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FineTune(TWO, head_epochs=4, full_epochs=4, lr=3e-3, lr_ratio=10.0, sizes=None, find=False)
        for schedule in ("one_cycle", "flat_cos", "constant"):
            Phase(2, "all", 3e-3, None, schedule, None, 25.0, 1e5, (0.95, 0.85, 0.95))
        Phase(2, pct_start=0.3, div=10.0, div_final=100.0, moms=(0.9, 0.8, 0.9))
        Phase(2, schedule="flat_cos", pct_start=0.3, div_final=100.0)
        ImageClassifier(Net(), num_classes=3)


@pytest.mark.parametrize("more", [{"patience": 5}, {"min_delta": 0.1}, {"mode": "max"}, {"restore_best": True}])
def test_what_ends_a_phase_needs_a_metric(more: dict[str, object]) -> None:
    with pytest.raises(PhaseError, match=f"`{next(iter(more))}` of a phase to be .* without `until`"):
        Phase(2, **more)  # type: ignore[arg-type]
    Phase(2, until="val_loss", **more)  # type: ignore[arg-type]


def test_two_lengths_of_one_fall_or_of_one_run_are_refused() -> None:
    with pytest.raises(PhaseError, match="`cooldown` of a phase to be None with `pct_start`, got 1"):
        Phase(4, schedule="flat_cos", cooldown=1, pct_start=0.5)
    with pytest.raises(PhaseError, match="one number of epochs, got 3 and epochs=5"):
        FineTune(3, epochs=5)
    assert FineTune(3, epochs=3).epochs == 3
