"""What a run that will be killed writes down: what goes on, and what it ends with; for ``kill.py``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint

ENDED, MOMENT = "ended.pt", "moment.txt"


class Moments(pl.Callback):
    """Keeps in the run's folder what goes on now, and in the end weights, optimizer and metrics."""

    def note(self, trainer: pl.Trainer, words: str) -> None:
        """Write a line in place of the one before."""
        folder = Path(trainer.default_root_dir)
        (folder / "moment.new").write_text(words)
        (folder / "moment.new").replace(folder / MOMENT)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A range test, a resizing."""
        self.note(trainer, f"start of a phase (range test, resizing): epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A step."""
        self.note(trainer, f"training step: {trainer.global_step}")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Every third is saved."""
        if trainer.global_step % 3 == 0:
            self.note(trainer, f"checkpoint: after step {trainer.global_step}")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A validation."""
        self.note(trainer, f"validation: epoch {trainer.current_epoch}")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What is compared."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        result = {
            "weights": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "metrics": metrics,
        }
        folder = Path(trainer.default_root_dir)
        torch.save(result, folder / "ended.new")
        (folder / "ended.new").replace(folder / ENDED)


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Images somebody else loads, each with noise from torch's generator."""

    def __len__(self) -> int:
        """How many."""
        return 240

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        """An image of noise whose mean says its class."""
        label = place % 3
        return torch.randn(3, 32, 32) + label, torch.tensor(label)


class Foreign(pl.LightningModule):
    """A module that knows nothing of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3))

    def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss."""
        return nn.functional.cross_entropy(self.head(self.body(batch[0])), batch[1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Of a training batch."""
        return self.step(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Of a validation batch."""
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def ours(data: Path, folder: Path, saved: Path | None) -> None:
    """Ants and bees by this package's task and data."""
    images = ImageData.from_folder(data / "ants_bees", size=96, batch_size=32, num_workers=2)
    module = ImageClassifier("test_resnet", num_classes=images.num_classes, weights=False)
    phases = [
        Phase(1, "head", "find", size=64),
        Phase(1, "all", ("find", 3e-4), size=64),
        Phase(1, "head", 1e-3, size=96),
        Phase(1, "all", ("find", 1e-4), size=96),
    ]
    trainer(folder, phases).fit(module, datamodule=images, ckpt_path=saved)


def foreign(data: Path, folder: Path, saved: Path | None) -> None:
    """A module, a data set and shuffled loaders of somebody else."""
    train, valid = DataLoader(Drawn(), 8, shuffle=True, num_workers=2), DataLoader(Drawn(), 60)
    phases = [Phase(1, "head", "find"), Phase(1, "all", ("find", 3e-3)), Phase(2, "all", (1e-4, 1e-3))]
    trainer(folder, phases).fit(Foreign(), train, valid, ckpt_path=saved)


def trainer(folder: Path, phases: list[Phase]) -> pl.Trainer:
    """Saves every third step."""
    return pl.Trainer(
        accelerator="cpu",
        callbacks=[Moments(), FineTune(phases), LastCheckpoint(every_n_train_steps=3)],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    run = {"ours": ours, "foreign": foreign}[sys.argv[1]]
    run(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
