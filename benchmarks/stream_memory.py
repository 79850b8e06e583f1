"""Memory while a stream of generated images passes: ``python benchmarks/stream_memory.py --images 1000000``.

Prints the resident memory of the process after each twentieth of one training epoch of a tiny network, in MB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.data import IterableDataset

from lightning_finetune import FineTune, ImageStream, Phase


class Generated(IterableDataset):
    """Images of 8 x 8 pixels that say their class by their brightness."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for number in range(self.count):
            image = np.full((8, 8, 3), 100 * (number % 2), np.uint8)
            image[:3] += np.frombuffer(number.to_bytes(3, "little"), np.uint8)[:, None, None] // 2
            yield image, number % 2


class Tiny(pl.LightningModule):
    """Two layers, so that nearly all time is the stream's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 8)
        self.head = nn.Linear(8, 2)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Of the mean colour."""
        return nn.functional.cross_entropy(self.head(self.body(batch["image"].mean((2, 3))).relu()), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain steps."""
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Memory(pl.Callback):
    """Resident memory in MB, twenty times in an epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Note it."""
        if (trainer.fit_loop.batch_idx + 1) % max(1, int(trainer.num_training_batches) // 20) == 0:
            self.found.append(round(psutil.Process().memory_info().rss / 2**20, 1))


def measure(images: int, batch_size: int = 500) -> list[float]:
    """The memory after each twentieth of an epoch of ``images``."""
    torch.set_num_threads(1)
    memory = Memory()
    options = {"size": 8, "batch_size": batch_size, "num_workers": 0, "augment": "none"}
    data = ImageStream(Generated(images), Generated(batch_size), ["dark", "bright"], **options)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [FineTune([Phase(1, "all", 1e-2)]), memory]
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=callbacks, **quiet)
    trainer.fit(Tiny(), data)
    return memory.found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = measure(args.images)
    print(found)
    if args.out:
        args.out.write_text(json.dumps({"images": args.images, "megabytes": found}) + "\n")
