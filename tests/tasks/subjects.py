"""Every task, small, and data for it."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import tasks
from lightning_finetune.tasks.base import BaseTask

TASKS = {
    "ImageClassifier": lambda: tasks.ImageClassifier("test_resnet", num_classes=3, weights=False),
    "MultiLabelClassifier": lambda: tasks.MultiLabelClassifier(
        "test_resnet", num_classes=3, weights=False, threshold="tuned"
    ),
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
