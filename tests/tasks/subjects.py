"""Every task, small, and data for it."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import tasks
from lightning_finetune.tasks.base import BaseTask


def regressor() -> tasks.ImageRegressor:
    """One that knows the spread of its targets, as data of this package would tell."""
    task = tasks.ImageRegressor("test_resnet", num_outputs=3, weights=False, loss="huber")
    task.standard.set([30.0] * 3, [5.0] * 3)
    return task


TASKS = {
    "ImageClassifier": lambda: tasks.ImageClassifier("test_resnet", num_classes=3, weights=False),
    "MultiLabelClassifier": lambda: tasks.MultiLabelClassifier(
        "test_resnet", num_classes=3, weights=False, threshold="tuned"
    ),
    "ImageRegressor": regressor,
    "SemanticSegmenter": lambda: tasks.SemanticSegmenter("fpn", backbone="resnet18", num_classes=3, weights=False),
    "UNetSegmenter": lambda: tasks.UNetSegmenter(backbone="resnet18", num_classes=3, weights=False, ignore_index=2),
}
BATCH = 4
SMALL = {"weights": False, "num_classes": 3}


def batches(kind: str, count: int, shuffle: bool = False, **options) -> DataLoader:
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    targets = {
        "single": torch.randint(0, 3, (count,), generator=generator),
        "multi": torch.randint(0, 2, (count, 3), generator=generator).float(),
        "number": 30 + 5 * torch.randn(count, 3, generator=generator),
        "mask": torch.randint(0, 3, (count, 32, 32), generator=generator),
    }
    return DataLoader(TensorDataset(images, targets[kind]), BATCH, shuffle=shuffle, **options)


def ready(task: BaseTask, size: tuple[int, int] = (64, 48), channels: int = 3) -> BaseTask:
    """A task as after training: it knows its data, and its norm layers have seen some."""
    task.classes = ["ant", "bee", "wasp"][: task.num_classes]
    mean = [0.4 + 0.02 * k for k in range(channels)]
    task.preprocessing = {"size": list(size), "mean": mean, "std": [0.25] * channels, "resize": "crop"}
    torch.manual_seed(1)
    task.train()
    with torch.no_grad():
        for _ in range(3):
            task(torch.randn(8, channels, 64, 64))
    return task.eval()
