"""A validation on seven images, in one process or shared unevenly by two: ``python -m tests.tasks.uneven OUT``."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from lightning_finetune.tasks import ImageClassifier


class Uneven(Sampler):
    """Five images for the first rank, two for the second; or all seven for one."""

    def __iter__(self):
        if not torch.distributed.is_initialized():
            return iter(range(7))
        return iter(range(5) if torch.distributed.get_rank() == 0 else range(5, 7))

    def __len__(self):
        return len(list(iter(self)))


def validate(tmp_path: Path, **options) -> dict[str, float]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(7, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2, 2]))
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    task = ImageClassifier(net, num_classes=3, class_weights=[1.0, 9.0, 0.1], metrics={"f1": MulticlassF1Score(3)})
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(**quiet, use_distributed_sampler=False, default_root_dir=tmp_path, **options)
    trainer.validate(task, DataLoader(data, batch_size=8, sampler=Uneven()), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    (out / "two.json").write_text(json.dumps(validate(out, devices=2, strategy="ddp_fork")))
