"""Whatever constructors are given, they take it or refuse it in words of their own."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_finetune import callbacks, tasks
from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.data import Augment, ImageData, ImageItems
from lightning_finetune.data.pixels.mix import CutMix, MixUp
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import FinetuneError

JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3.5,
    -0.5,
    1e-3,
    1e309,
    float("nan"),
    10**30,
    "",
    "x",
    "head",
    "find",
]
JUNK += [
    "1e-3",
    "a\0b",
    b"x",
    [],
    (),
    {},
    {1},
    [None],
    [1, [2]],
    [1e-3, 1e-2],
    (1e-2, 1e-3),
    (0.95, 0.85, 0.95),
    (1, 2),
]
JUNK += [{0: "head"}, {"a": 1}, {0: 64, 2: 96}, ["a", "b"], range(3), Path("x"), object(), print, int, 1j, ...]
JUNK += [np.float32(0.1), np.int64(3), np.array([1, 2]), torch.tensor(3), torch.zeros(2, 2), torch.nn.Identity()]

NET = {"weights": False}
SUBJECTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Phase": (Phase, {"epochs": 1, "train": "all", "lr": (1e-4, 1e-3), "size": 64}),
    "FineTune": (callbacks.FineTune, {"head_epochs": 1, "full_epochs": 2, "sizes": [64, 96]}),
    "GradualUnfreezing": (callbacks.GradualUnfreezing, {"schedule": {0: "head", 2: "all"}}),
    "OneCycle": (callbacks.OneCycle, {"max_lr": 1e-3, "epochs": [2, 3]}),
    "ProgressiveResizing": (callbacks.ProgressiveResizing, {"sizes": {0: 64, 1: 96}}),
    "LRRangeTest": (callbacks.LRRangeTest, {"start_lr": 1e-6, "end_lr": 1.0, "num_steps": 20}),
    "LogPredictions": (callbacks.LogPredictions, {"num": 4}),
    "RunReport": (callbacks.RunReport, {}),
    "WatchModel": (callbacks.WatchModel, {"log": "all"}),
    "BestCheckpoint": (BestCheckpoint, {"monitor": "val_loss"}),
    "LastCheckpoint": (LastCheckpoint, {"every_n_train_steps": 3}),
    "ImageClassifier": (tasks.ImageClassifier, {"model": "test_resnet", "num_classes": 3, **NET}),
    "MultiLabelClassifier": (tasks.MultiLabelClassifier, {"model": "test_resnet", "num_classes": 3, **NET}),
    "ImageRegressor": (tasks.ImageRegressor, {"model": "test_resnet", "num_outputs": 2, **NET}),
    "UNetSegmenter": (tasks.UNetSegmenter, {"backbone": "test_resnet", "num_classes": 3, **NET}),
    "SemanticSegmenter": (tasks.SemanticSegmenter, {"backbone": "resnet18", "num_classes": 3, **NET}),
    "LinearRegression": (tasks.LinearRegression, {}),
    "Augment": (Augment, {"max_zoom": 1.2}),
    "MixUp": (MixUp, {"alpha": 0.4}),
    "CutMix": (CutMix, {"alpha": 1.0}),
}


@pytest.fixture(scope="module")
def data(photos: Path, tmp_path_factory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Ways to data, with arguments that are right."""
    files = sorted((photos / "train").rglob("*.jpg"))
    names = [file.parent.name for file in files]
    frame = pd.DataFrame({"file": [str(file.relative_to(photos)) for file in files], "label": names})
    frame["age"] = [float(file.stem) for file in files]
    path = tmp_path_factory.mktemp("tables") / "labels.csv"
    frame.to_csv(path, index=False)
    numbers = TensorDataset(torch.zeros(8, 3, 16, 16), torch.arange(8) % 2)
    return {
        "from_folder": (ImageData.from_folder, {"root": photos, "size": 32}),
        "from_csv": (ImageData.from_csv, {"root": photos, "csv": path}),
        "from_df": (ImageData.from_df, {"table": frame, "root": photos}),
        "numbers": (ImageData.from_df, {"table": frame, "root": photos, "numbers": "age"}),
        "from_lists": (ImageData.from_lists, {"files": files, "labels": names}),
        "from_name_func": (ImageData.from_name_func, {"root": photos, "func": lambda name: int(name[0]) % 2}),
        "from_name_re": (ImageData.from_name_re, {"root": photos, "pattern": r"(\d)\.jpg"}),
        "from_dataset": (ImageData.from_dataset, {"train": numbers}),
        "ImageItems.from_folder": (ImageItems.from_folder, {"root": photos}),
        "ImageItems.from_lists": (ImageItems.from_lists, {"files": files, "root": photos}),
    }


def parameters(make: Callable[..., Any], right: dict[str, Any]) -> list[str]:
    """Names of arguments, those of the data module too."""
    import inspect

    found = [name for name, one in inspect.signature(make).parameters.items() if one.kind is not one.VAR_KEYWORD]
    options = ["size", "batch_size", "num_workers", "augment", "mix", "resize", "seed", "stats", "channels", "white"]
    takes = any(one.kind is one.VAR_KEYWORD for one in inspect.signature(make).parameters.values())
    return sorted({*found, *right, *(options if takes else ())})


def attempt(make: Callable[..., Any], right: dict[str, Any], draw: random.Random) -> str | None:
    """What is wrong with how one random configuration ended."""
    names = parameters(make, right)
    wrong = {name: draw.choice(JUNK) for name in draw.sample(names, min(len(names), draw.randrange(1, 3)))}
    try:
        make(**{**right, **wrong})
    except FinetuneError as error:
        return None if len(str(error)) > 20 else f"{wrong}: says only {error}"
    except Exception as error:  # what this is about
        return f"{wrong}: {type(error).__name__}: {error}"
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUBJECTS)
def test_constructors(name: str, here: Path):
    make, right = SUBJECTS[name]
    make(**right)
    found = [attempt(make, right, random.Random(f"{name} {number}")) for number in range(12)]
    assert list(filter(None, found)) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(10))
def test_ways_to_data(data, number: int, here: Path):
    name, (make, right) = list(data.items())[number]
    make(**right)
    found = [attempt(make, right, random.Random(f"{name} {one}")) for one in range(12)]
    assert list(filter(None, found)) == []
