"""Does the data keep up with the model? Images a second from JPEG files, against random tensors in memory.

    python benchmarks/rate.py DATA [--rounds 3] [--cases 0 1 2 3] [--out FILE.json]

DATA holds ``satellite`` (256 px JPEG). For each phase of two recipes, that of ``make demo`` (64 px, norm layers train
in the head phase too) and the lessons' (128 and 224 px), the same Trainer trains EfficientNet-Lite0 from files, by two
workers, and from batches that lie in memory, ready for the model. They take turns; the median ratio counts. An epoch in
which each file is decoded, and the one after it, are told apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase

BATCH, CLASSES, WARM = 32, 21, 5
BATCHES = 41  # of 1,343 images


@dataclass(frozen=True)
class Case:
    """One phase of a recipe."""

    name: str
    train: str
    size: int
    augment: str
    train_norm: bool


CASES = (
    Case("demo: head, norms train", "head", 64, "none", True),
    Case("demo: all layers", "all", 64, "none", True),
    Case("lesson: head, augmented", "head", 128, "satellite", False),
    Case("lesson: all layers", "all", 128, "satellite", False),
    Case("lesson: head, augmented", "head", 224, "satellite", False),
    Case("lesson: all layers", "all", 224, "satellite", False),
)


class Batches(torch.utils.data.IterableDataset):
    """Batches as the data module gives them to the model, made once."""

    def __init__(self, size: int, count: int) -> None:
        torch.manual_seed(0)
        images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
        self.batch = {"image": images, "label": torch.randint(0, CLASSES, (BATCH,))}
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (dict(self.batch) for _ in range(self.count))


class Clock(Callback):
    """When each batch of each epoch had been trained."""

    def __init__(self) -> None:
        self.ended: list[list[float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Another epoch."""
        self.ended.append([])

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.ended[-1].append(time.perf_counter())

    def rates(self) -> list[float]:
        """Images a second of each epoch after its first few batches."""
        return [BATCH * (len(times) - WARM) / (times[-1] - times[WARM - 1]) for times in self.ended]


def rates(case: Case, root: Path, files: bool) -> list[float]:
    """Images a second of a first and of a second epoch."""
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=CLASSES)
    clock = Clock()
    phases = [Phase(2, case.train, 1e-4, size=case.size if files else None)]  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=folder,
            callbacks=[FineTune(phases, train_norm=case.train_norm), clock],
        )
        if files:
            data = ImageData.from_csv(
                root / "satellite",
                label_col="landuse",
                valid_col="is_valid",
                folder="images",
                size=case.size,
                batch_size=BATCH,
                num_workers=2,
                augment=case.augment,  # type: ignore[arg-type]
            )
            trainer.fit(model, data)
        else:
            trainer.fit(model, DataLoader(Batches(case.size, BATCHES), batch_size=None))
    return clock.rates()


def main() -> None:
    """Measure, print rows of a table, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    print("| phase | size | random tensors, images/s | JPEG files, first epoch | ratio | later epochs | ratio |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for case in (CASES[place] for place in options.cases):
        rounds = []
        for _ in range(options.rounds):
            memory = rates(case, options.data, files=False)
            rounds.append((statistics.fmean(memory), *rates(case, options.data, files=True)))
        memory, first, later = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [statistics.median(one[k] / one[0] for one in rounds) for k in (1, 2)]
        rows.append({"name": case.name, "size": case.size, "rounds": rounds, "ratios": ratios})
        shown = f"{memory:.0f} | {first:.0f} | {ratios[0]:.3f} | {later:.0f} | {ratios[1]:.3f}"
        print(f"| {case.name} | {case.size} | {shown} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
