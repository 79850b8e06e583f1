"""What ``quality.py`` asks of fastai: the same weights, images, phases and rates through its own learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import timm
from fastai.vision.all import (
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
    get_image_files,
    params,
    set_seed,
    vision_learner,
)
from torch import Tensor, nn

from lightning_finetune.tasks.networks.backbones import packaged_weights
from lightning_finetune.tasks.networks.weights import load_weights

BACKBONE = "tf_efficientnet_lite0"
STATS = ([0.5] * 3, [0.5] * 3)
"""Mean and deviation of the images that the backbone was trained on."""
CLASSES = 12
"""Of the masks, Void included."""


def train(
    root: Path, task: str, recipe: Any, augment: dict[str, Any], workers: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Logits and targets of the validation set after all phases, as its users would train."""
    set_seed(seed, reproducible=True)
    options = {"bs": recipe.batch_size, "num_workers": workers, "device": "cpu"}

    def loaders(size: Any) -> DataLoaders:
        return segments(root, size, options) if task == "camvid" else tiles(root, task, size, augment, options)

    size = recipe.phases[0].size
    data = loaders(size)
    learner = (unet if task == "camvid" else classifier)(data)
    for phase in recipe.phases:
        if phase.size != size:
            size = phase.size
            learner.dls = loaders(size)
        follow(learner, phase)
    outputs, targets = learner.get_preds(act=nn.Identity(), with_loss=False)
    return plain(outputs), plain(targets)


def follow(learner: Learner, phase: Any) -> None:
    """One phase: freeze or unfreeze, then one cycle."""
    low = phase.lr if isinstance(phase.lr, float) else slice(*phase.lr)
    (learner.freeze if phase.train == "head" else learner.unfreeze)()
    pct = 0.25 if phase.pct_start is None else phase.pct_start
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(phase.epochs, low, pct_start=pct)


def plain(tensor: Tensor) -> Tensor:
    """Without fastai's own tensor classes."""
    return tensor.as_subclass(Tensor) if isinstance(tensor, TensorBase) else tensor


def tiles(root: Path, task: str, size: int, augment: dict[str, Any], options: dict[str, Any]) -> DataLoaders:
    """Land use or labels of the satellite tiles."""
    table = pd.read_csv(root / "satellite" / "labels.csv")
    target = CategoryBlock if task == "landuse" else MultiCategoryBlock
    block = DataBlock(
        blocks=(ImageBlock, target),
        get_x=ColReader("image", pref=f"{root / 'satellite' / 'images'}/"),
        get_y=ColReader(task, label_delim=" " if task == "tags" else None),
        splitter=ColSplitter("is_valid"),
        item_tfms=Resize(256),
        batch_tfms=[*aug_transforms(size=size, **augment), Normalize.from_stats(*STATS)],
    )
    return block.dataloaders(table, **options)


def segments(root: Path, size: tuple[int, int], options: dict[str, Any]) -> DataLoaders:
    """Street scenes and their masks."""
    codes = (root / "camvid" / "codes.txt").read_text().split()
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes)),
        get_items=lambda folder: [file for file in get_image_files(folder) if file.parent.name == "images"],
        get_y=lambda file: file.parent.parent / "masks" / f"{file.stem}.png",
        splitter=by_split,
        item_tfms=Resize(size, method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*STATS)],
    )
    return block.dataloaders(root / "camvid", **options)


def classifier(data: DataLoaders) -> Learner:
    """Its own learner and head on the same backbone."""
    learner = vision_learner(data, BACKBONE, pretrained=False, normalize=False)
    load_weights(learner.model[0].model, packaged_weights(BACKBONE), part=True)
    return learner


def unet(data: DataLoaders) -> Learner:
    """Its own U-Net over the stages of the same backbone; ``unet_learner`` takes none of timm's."""
    network: Any = timm.create_model(BACKBONE, num_classes=0)
    load_weights(network, packaged_weights(BACKBONE), part=True)
    body = nn.Sequential(network.conv_stem, network.bn1, *network.blocks)
    model = DynamicUnet(body, CLASSES, data.one_batch()[0].shape[-2:])
    apply_init(model[2])

    def groups(model: nn.Module) -> list[Any]:
        return [params(part) for part in (model[0][:5], model[0][5:], model[1:])]

    return Learner(data, model, loss_func=CrossEntropyLossFlat(axis=1), splitter=groups)


def by_split(files: list[Path]) -> tuple[list[int], list[int]]:
    """Indices of ``train/images/*`` and of ``val/images/*``."""
    names = [file.parent.parent.name for file in files]
    return tuple([i for i, name in enumerate(names) if name == split] for split in ("train", "val"))  # type: ignore[return-value]
