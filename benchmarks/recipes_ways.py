"""What ``recipes.py`` runs of this package: its recipes, and the head alone over the pretrained features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from recipes_sets import VOID, Kind, Task, image_errors, mask_of
from torch import Tensor
from training import Clock, fit

from lightning_finetune import FineTune, ImageClassifier, ImageData, ImageItems, MultiLabelClassifier, UNetSegmenter
from lightning_finetune.data.pixels.augment import Augment

Outcome = tuple[Clock, Tensor, Tensor]
"""When which error was reached; logits and targets of the validation images with the last weights."""
Train = Callable[[Task, int, int], Outcome]
"""Trains a way on a task for so many epochs, from a seed."""


def error_of(metrics: Mapping[str, Any]) -> float:
    """The validation error of what any of these modules logs."""
    if "val_error_rate" in metrics:
        return float(metrics["val_error_rate"])
    return 1 - float(metrics["val_f2" if "val_f2" in metrics else "val_pixel_accuracy"])


def make_data(task: Task, seed: int, augment: bool = True) -> ImageData:
    """This package's data module."""
    table, words = task.table, task.source.augment
    items = ImageItems.from_df(table, "/", "path").split_by_column()
    if task.source.kind == "masks":
        items = items.masks_from(mask_of, mask_of(task.train[0][0]).parents[2] / "codes.txt")
    else:
        items = items.label_from_df("label", " " if task.source.kind == "multi" else None)
    drawn = Augment(**words) if augment and words is not None else "none"
    return items.datamodule(
        size=task.source.size,
        batch_size=task.batch,
        num_workers=0,
        augment=drawn,  # type: ignore[typeddict-item]  # a Literal, or an Augment
        seed=seed,
        resize="squish" if task.source.kind == "masks" else "crop",
    )


def make_module(task: Task, data: ImageData, head: str = "linear") -> Any:
    """This package's task."""
    if task.source.kind == "masks":
        return UNetSegmenter("unet", num_classes=data.num_classes, ignore_index=VOID)
    kinds: dict[Kind, Any] = {"single": ImageClassifier, "multi": MultiLabelClassifier}
    return kinds[task.source.kind](task.backbone, num_classes=data.num_classes, head=head)


@torch.no_grad()
def judge(module: Any, data: ImageData, clock: Clock) -> Outcome:
    """The validation images, in their order."""
    module.eval()
    outputs, targets = [], []
    for raw in data.val_dataloader():
        batch = data.on_after_batch_transfer(raw, 0)
        outputs.append(module(batch["image"]))
        targets.append(batch["mask"] if "mask" in batch else batch["label"])
    return clock, torch.cat(outputs), torch.cat(targets)


def recipe(name: str, head: str, find: bool = False) -> Train:
    """One of this package's recipes, with a range test if it shall find its rates."""

    def train(task: Task, epochs: int, seed: int) -> Outcome:
        pl.seed_everything(seed, verbose=False)
        data = make_data(task, seed)
        module = make_module(task, data, head)
        callback = FineTune(epochs=epochs, recipe=name, find=find)  # type: ignore[arg-type]  # a name from this file
        return judge(module, data, fit(module, data, [callback], epochs, error_of))

    return train


def head_alone(task: Task, epochs: int, seed: int) -> Outcome:
    """Logistic regression over the standardised, pretrained features of the images as they are; nothing is trained."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    pl.seed_everything(seed, verbose=False)
    data = make_data(task, seed, augment=False)
    module = make_module(task, data).eval()
    data.stats = module.normalization
    clock = Clock()
    data.setup("fit")
    (train, labels), (valid, targets) = (features(module, data, part) for part in ("train", "val"))
    scaler = StandardScaler().fit(train)
    columns = labels[:, None] if labels.ndim == 1 else labels
    fits = [LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(train), column) for column in columns.T]
    found = np.stack([fitted.decision_function(scaler.transform(valid)) for fitted in fits], axis=-1)
    logits = torch.from_numpy(found.reshape(len(found), -1))
    if task.source.kind == "single" and logits.shape[1] == 1:  # two classes have one score
        logits = torch.cat([-logits, logits], dim=1)
    clock.training_ends()
    clock.epoch_ends(image_errors(task.source.kind, logits, torch.from_numpy(targets)).mean())
    return clock, logits, torch.from_numpy(targets)


def solved_alone(task: Task, epochs: int, seed: int) -> Outcome:
    """The recipe's head as it starts: one epoch at rates that change nothing."""
    pl.seed_everything(seed, verbose=False)
    data = make_data(task, seed)
    module = make_module(task, data, "multi_level")
    return judge(module, data, fit(module, data, [FineTune(epochs=1, lr=1e-12)], 1, error_of))


@torch.no_grad()
def features(module: Any, data: ImageData, part: str) -> tuple[Any, Any]:
    """Features ``[N, C]`` and labels of a split."""
    loader = data.val_dataloader() if part == "val" else data.train_dataloader().one_pass()
    batches = [data.on_after_batch_transfer(raw, 0) for raw in loader]
    pooled = torch.cat([module.model.forward_features(batch["image"]) for batch in batches])
    return pooled.numpy(), torch.cat([batch["label"] for batch in batches]).numpy()


def own_ways() -> dict[str, Train]:
    """By name."""
    return {
        "ours": recipe("measured", "multi_level"),
        "linear": recipe("measured", "linear"),
        "find": recipe("measured", "multi_level", find=True),
        "lessons": recipe("lessons", "concat_pool"),
        "head": head_alone,
        "solved": solved_alone,
    }
