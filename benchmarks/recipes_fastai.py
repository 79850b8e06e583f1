"""What ``recipes.py`` asks of fastai: the same weights, images and epochs, its own learner, loaders and calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    ColReader,
    ColSplitter,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoaders,
    DynamicUnet,
    ImageBlock,
    Learner,
    MaskBlock,
    MultiCategoryBlock,
    Normalize,
    Resize,
    ResizeMethod,
    TensorBase,
    apply_init,
    aug_transforms,
    params,
    set_seed,
    vision_learner,
)
from recipes_sets import Task, image_errors, mask_of
from torch import Tensor, nn
from training import Clock

from lightning_finetune.tasks.networks.backbones import packaged_weights
from lightning_finetune.tasks.networks.weights import load_weights

STATS = ([0.5] * 3, [0.5] * 3)
"""Mean and deviation of the images that the backbone was trained on."""
CLASSES = 12
"""Of the streets, Void included."""

Calls = Callable[[Learner, int], None]


class Timed(Callback):
    """Tells a clock of each epoch, and of the error of its validation."""

    def __init__(self, task: Task, clock: Clock) -> None:
        self.task, self.clock = task, clock

    def before_train(self) -> None:
        """An epoch begins."""
        self.clock.epoch_begins()

    def after_train(self) -> None:
        """Its training has ended."""
        self.clock.training_ends()

    def before_validate(self) -> None:
        """Forget the outputs of the epoch before."""
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def after_batch(self) -> None:
        """Keep what is said of validation images."""
        if not self.training:
            self.outputs.append(without_class(self.pred.detach()))
            self.targets.append(without_class(self.y))

    def after_epoch(self) -> None:
        """Judge them."""
        errors = image_errors(self.task.source.kind, torch.cat(self.outputs), torch.cat(self.targets))
        self.clock.epoch_ends(float(errors.mean()))


def train(task: Task, epochs: int, seed: int, calls: Calls) -> tuple[Clock, Tensor, Tensor]:
    """When which error was reached; logits and targets of the validation images with the last weights."""
    set_seed(seed, reproducible=True)
    torch.set_num_threads(1)
    data = loaders(task)
    learner = (unet if task.source.kind == "masks" else classifier)(data, task.backbone)
    clock = Clock()
    timed = Timed(task, clock)
    learner.add_cb(timed)
    with learner.no_bar(), learner.no_logging():
        clock.begin()
        calls(learner, epochs)
        return clock, torch.cat(timed.outputs), torch.cat(timed.targets)


def fine_tune(learner: Learner, epochs: int) -> None:
    """Its one call, as in its quick start: one epoch of the head, then the others."""
    learner.fine_tune(max(1, epochs - 1))


def lessons(learner: Learner, epochs: int) -> None:
    """The calls of the lessons: the head, then all layers."""
    learner.fit_one_cycle(epochs - epochs // 2, 3e-3)
    learner.unfreeze()
    learner.fit_one_cycle(max(1, epochs // 2), slice(3e-6, 3e-4))


def without_class(tensor: Tensor) -> Tensor:
    """Without fastai's own tensor classes."""
    return tensor.as_subclass(Tensor) if isinstance(tensor, TensorBase) else tensor


def loaders(task: Task) -> DataLoaders:
    """The images, first at twice the size of the run, as its book has it, then augmented in batches."""
    kind, size, words = task.source.kind, task.source.size, task.source.augment
    codes = (mask_of(task.train[0][0]).parents[2] / "codes.txt").read_text().split() if kind == "masks" else None
    target = {"single": CategoryBlock, "multi": MultiCategoryBlock, "masks": MaskBlock(codes)}[kind]
    first = Resize(size, method=ResizeMethod.Squish) if kind == "masks" else Resize(size if words is None else 2 * size)
    drawn = [] if words is None else aug_transforms(**words, **({} if kind == "masks" else {"size": size}))
    block = DataBlock(
        blocks=(ImageBlock, target),
        get_x=ColReader("path"),
        get_y=ColReader("label", label_delim=" " if kind == "multi" else None),
        splitter=ColSplitter("is_valid"),
        item_tfms=first,
        batch_tfms=[*drawn, Normalize.from_stats(*STATS)],
    )
    return block.dataloaders(task.table, bs=task.batch, val_bs=task.batch, num_workers=0, device="cpu")


def classifier(data: DataLoaders, backbone: str) -> Learner:
    """Its own learner and head on the same backbone."""
    learner = vision_learner(data, backbone, pretrained=False, normalize=False)
    load_weights(learner.model[0].model, packaged_weights(backbone), part=True)
    return learner


def unet(data: DataLoaders, backbone: str) -> Learner:
    """Its own U-Net over the stages of the same backbone; ``unet_learner`` takes none of timm's."""
    network: Any = timm.create_model(backbone, num_classes=0)
    load_weights(network, packaged_weights(backbone), part=True)
    body = nn.Sequential(network.conv_stem, network.bn1, *network.blocks)
    model = DynamicUnet(body, CLASSES, data.one_batch()[0].shape[-2:])
    apply_init(model[2])

    def groups(model: nn.Module) -> list[Any]:
        return [params(part) for part in (model[0][:5], model[0][5:], model[1:])]

    return Learner(data, model, loss_func=CrossEntropyLossFlat(axis=1), splitter=groups)
