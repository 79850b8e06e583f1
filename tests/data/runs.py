"""One run of a Trainer on an ``ImageData`` in two processes: ``python -m tests.data.runs ROOT OUT``.

Rank r writes ``OUT/rank{r}.pt``: which items it saw in each batch, and what they looked like.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_finetune.data import ImageData
from lightning_finetune.engine.processes import leave_group


class Recorder(pl.LightningModule):
    """A tiny net that notes the items and the sum of the pixels of every batch."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, classes)
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def step(self, batch, stage):
        self.seen[stage].append((self.current_epoch, batch["index"].tolist(), float(batch["image"].double().sum())))
        return cross_entropy(self.head(self.net(batch["image"])), batch["label"])

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.step(batch, "test")

    def predict_step(self, batch, batch_idx):
        self.step(batch, "predict")
        return batch["index"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def quiet(**options) -> pl.Trainer:
    """A Trainer on the CPU that writes and prints nothing unless told."""
    defaults = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(**{"enable_model_summary": False, "max_epochs": 2, **defaults, **options})


def main() -> None:
    root, out = sys.argv[1:]
    data, model = ImageData.from_folder(root, size=32, batch_size=4, num_workers=1), Recorder()
    trainer = quiet(devices=2, strategy="ddp", num_sanity_val_steps=2)
    trainer.fit(model, datamodule=data)
    trainer.predict(model, datamodule=data)
    torch.save(model.seen, Path(out) / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
    leave_group()
