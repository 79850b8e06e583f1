"""One run on a stream in a process of its own: ``python -m tests.modules.stream_runs LIBRARY FILES OUT [options]``.

Rank r writes ``OUT/rank{r}.json``: the rows that each training batch held, and those of each validation.
"""

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from lightning_finetune import FineTune, ImageClassifier, ImageStream, LRRangeTest, Phase
from lightning_finetune.engine.processes import leave_group
from tests.foreign import ForeignNet, quiet_trainer
from tests.modules.streams import LIBRARIES, NAMES, number_of


class Stopped(Exception): ...


class Rows(pl.Callback):
    """Notes the rows of each batch that is trained on; ends the run before a step."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop
        self.train: list[Any] = []
        self.valid: list[int] = []
        self.sizes: list[int] = []

    def note(self, images: torch.Tensor, trainer: pl.Trainer) -> None:
        if trainer.training:
            self.train.append([trainer.current_epoch, number_of(images)])
            self.sizes.append(images.shape[-1])
        elif trainer.validating:
            self.valid += number_of(images)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.stop:
            raise Stopped


class Ours(ImageClassifier):
    rows: Rows

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.rows.note(batch["image"], self.trainer)
        return batch


class Foreign(ForeignNet):
    """A module that takes bytes from the loader of the library."""

    rows: Rows

    def on_before_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training or self.trainer.validating:
            self.rows.note(batch[0], self.trainer)
        return batch

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0].float() / 255), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0].float() / 255), batch[1]), sync_dist=True)


def pair(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from lightning_finetune.data.block.rows import pair_of
    from lightning_finetune.data.pixels.decode import load_image

    pairs = [pair_of(row) for row in rows]
    return torch.stack([load_image(image, 32) for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def loader_of(stream: Any, args: argparse.Namespace) -> Any:
    """As the guide of the library has it."""
    if args.library == "litdata":
        from litdata import StreamingDataLoader

        return StreamingDataLoader(stream, batch_size=4, num_workers=args.workers, collate_fn=pair)
    if args.library == "datasets" and "RANK" in os.environ:
        from datasets.distributed import split_dataset_by_node

        stream = split_dataset_by_node(stream, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(stream, batch_size=4, num_workers=args.workers, collate_fn=pair)


class Loaders(pl.LightningDataModule):
    """Loaders that are made when the processes know of each other, as LitData's have to be."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args, (_, self.make) = args, LIBRARIES[args.library]

    def train_dataloader(self) -> Any:
        return loader_of(self.make(self.args.files / "train"), self.args)

    def val_dataloader(self) -> Any:
        return loader_of(self.make(self.args.files / "valid", shuffle=False), self.args)


def fit(args: argparse.Namespace) -> dict[str, Any]:
    """What was seen: rows of each training batch, of the validations, and sizes; the weights at the end."""
    pl.seed_everything(7, verbose=False)
    _, make = LIBRARIES[args.library]
    rows = Rows(args.stop)
    rise = {} if args.library == "litdata" else {"schedule": "constant"}
    phases = [Phase(1, "head", 1e-2, 32, **rise), Phase(1, "all", (1e-3, 1e-2), 64, **rise)]
    saver = ModelCheckpoint(args.out, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        args.out / f"rank{os.environ.get('RANK', 0)}",
        callbacks=[FineTune(phases, min_size=32), LRRangeTest(num_steps=6, at_epochs=(1,), apply=False), rows, saver],
        enable_checkpointing=True,
        max_epochs=2,
        accumulate_grad_batches=args.accumulate,
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy="ddp" if "RANK" in os.environ else "auto",
    )
    module = Foreign() if args.foreign else Ours("test_efficientnet", num_classes=3, weights=False)
    module.rows = rows
    options = {"size": 32, "batch_size": 4, "num_workers": args.workers, "augment": "none"}
    if args.foreign:
        data = {"datamodule": Loaders(args)}
    else:
        train, valid = make(args.files / "train"), make(args.files / "valid", shuffle=False)
        data = {"datamodule": ImageStream(train, valid, NAMES, **options)}
    with suppress(Stopped):
        trainer.fit(module, **data, ckpt_path=args.resume)
    weights = [float(param.double().sum()) for param in module.parameters()]
    return {"train": rows.train, "valid": rows.valid, "sizes": rows.sizes, "weights": weights}


def arguments(*given: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("files", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--foreign", action="store_true")
    return parser.parse_args([str(one) for one in given])


if __name__ == "__main__":
    torch.set_num_threads(1)
    args = arguments(*sys.argv[1:])
    (args.out / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(fit(args)))
    leave_group()
