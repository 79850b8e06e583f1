"""How fast are images loaded and augmented, beside fastai and kornia on the same machine in the same run?

    python benchmarks/data.py ROOT [--sizes 64 128 224] [--workers 2] [--repeats 3]

ROOT holds ``train`` and ``valid`` with class folders. Libraries that are not installed are left out, and it says so.
Contenders take turns, and each number is the median of its turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.data import ImageData
from lightning_finetune.data.batches.data_module import DECODED
from lightning_finetune.data.batches.dataset import BatchKey
from lightning_finetune.data.batches.loader import ImageLoader
from lightning_finetune.data.block.splits import Split

BATCH = 64


def main() -> None:
    """Print one table for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for size in options.sizes:
        loading(options.root, size, options.workers, options.repeats)
        augmenting(options.root, size, options.repeats)
    waiting(options.root, max(options.sizes), options.workers)


def loading(root: Path, size: int, workers: int, repeats: int) -> None:
    """Training images a second: from JPEG to a batch of bytes, and to what the model sees."""
    contenders: dict[str, Callable[[], int]] = {}
    for augment, name in ((False, "loaded"), (True, "augmented")):
        contenders[f"ours {name}"] = ours_epoch(root, size, workers, augment, keep=False)
        contenders[f"ours, kept, {name}"] = ours_epoch(root, size, workers, augment, keep=True)
        if installed("fastai"):
            contenders[f"fastai {name}"] = fastai_epoch(root, size, workers, augment)
    contenders["random tensors"] = random_epoch(root, size, workers)
    counts, seconds = in_turns(contenders, repeats)
    rates = {name: counts[name] / seconds[name] for name in contenders}
    report(f"images a second, {size} px, {workers} workers", rates)


def ours_epoch(root: Path, size: int, workers: int, augment: bool, keep: bool) -> Callable[[], int]:
    """Reads the next epoch from files, or from what the epoch before has decoded."""
    data = ImageData.from_folder(root, size=size, batch_size=BATCH, num_workers=workers)
    images = data.dataset(Split.TRAIN)
    if keep:
        images.keep_decoded(DECODED)
    loader = ImageLoader(images, data.train_dataloader().sampler, num_workers=workers, pin_memory=False)

    def epoch() -> int:
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
        count = 0
        for batch in loader:
            count += len(data.on_after_batch_transfer(batch, 0)["image"] if augment else batch["image"])
        return count

    return epoch


def fastai_epoch(root: Path, size: int, workers: int, augment: bool) -> Callable[[], int]:
    """The same with fastai."""
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms, imagenet_stats

    batch_tfms = [*aug_transforms(), Normalize.from_stats(*imagenet_stats)] if augment else None
    loaders = ImageDataLoaders.from_folder(
        root, item_tfms=Resize(size), batch_tfms=batch_tfms, bs=BATCH, num_workers=workers, device="cpu"
    )
    if not augment:
        loaders.train.after_batch.fs.clear()  # not even the conversion to float, as ours
    return lambda: sum(len(batch[0]) for batch in loaders.train)


def random_epoch(root: Path, size: int, workers: int) -> Callable[[], int]:
    """The limit: workers that only hand over memory, as many images an epoch."""
    images = len(ImageData.from_folder(root).dataset(Split.TRAIN)) // BATCH * BATCH
    batches = TensorDataset(torch.zeros(images, 3, size, size, dtype=torch.uint8))
    loader = DataLoader(batches, BATCH, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(batch) for (batch,) in loader)


def augmenting(root: Path, size: int, repeats: int) -> None:
    """Milliseconds for a batch on the device: flips, rotation, zoom, warp, lighting and normalisation."""
    data = ImageData.from_folder(root, size=size, batch_size=BATCH)
    batch = data.dataset(Split.TRAIN)[BatchKey(np.arange(BATCH), 0, (size, size))]
    contenders: dict[str, Callable[[], Any]] = {"ours": lambda: data.on_after_batch_transfer(batch, 0)}
    for name, build in (("fastai", fastai_augmentation), ("kornia", kornia_augmentation)):
        if installed(name):
            contenders[name] = build(batch["image"].contiguous())
    _, seconds = in_turns(contenders, 5 * repeats)
    report(f"milliseconds a batch of {BATCH}, {size} px", {name: 1000 * time for name, time in seconds.items()})


def fastai_augmentation(images: Tensor) -> Callable[[], Any]:
    """Fastai's transforms of a batch."""
    from fastai.vision.all import IntToFloatTensor, Normalize, Pipeline, TensorImage, aug_transforms, imagenet_stats

    normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
    steps = Pipeline([IntToFloatTensor(), *aug_transforms(), normalize], split_idx=0)
    return lambda: steps(TensorImage(images.clone()))


def kornia_augmentation(images: Tensor) -> Callable[[], Any]:
    """The nearest that kornia has."""
    from kornia import augmentation

    steps = augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.RandomAffine(degrees=10, scale=(1.0, 1.1), padding_mode="reflection", p=0.75),
        augmentation.RandomPerspective(0.2, p=0.75),
        augmentation.ColorJitter(brightness=0.2, contrast=0.2, p=0.75),
        augmentation.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
    return lambda: steps(images.float() / 255)


def waiting(root: Path, size: int, workers: int) -> None:
    """How much of a training epoch passes while the loop waits for a batch."""
    data = ImageData.from_folder(root, size=size, batch_size=32, num_workers=workers)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=data.num_classes)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    waited, start = 0.0, time.perf_counter()
    asked = start
    for batch in data.train_dataloader():
        waited += time.perf_counter() - asked
        ready = data.on_after_batch_transfer(batch, 0)
        torch.nn.functional.cross_entropy(model(ready["image"]), ready["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        asked = time.perf_counter()
    share = waited / (time.perf_counter() - start)
    print(f"\nwaiting for data in the first epoch of EfficientNet-Lite0, {size} px: {share:.1%}")


def in_turns(contenders: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What each gave, and its median seconds; a first turn, not counted, starts workers and warms the file cache."""
    results: dict[str, Any] = {}
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            results[name] = contender()
            if turn:
                turns[name].append(time.perf_counter() - start)
    return results, {name: statistics.median(times) for name, times in turns.items()}


def installed(name: str) -> bool:
    """Whether a library is there; it says which one is left out."""
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed and left out")
        return False
    return True


def report(title: str, numbers: dict[str, float]) -> None:
    """One line a contender, with its ratio to ours."""
    print(f"\n{title}")
    for name, number in numbers.items():
        ours = numbers.get(f"ours {name.split()[-1]}", next(iter(numbers.values())))
        print(f"  {name:18}{number:8.1f}   {number / ours:6.2f} of ours")


if __name__ == "__main__":
    main()
