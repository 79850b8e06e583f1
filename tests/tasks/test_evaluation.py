import lightning.pytorch as pl
import pytest
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


def validate(tmp_path, **options) -> dict[str, float]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(7, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2, 2]))
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    task = ImageClassifier(net, num_classes=3, class_weights=[1.0, 9.0, 0.1], metrics={"f1": MulticlassF1Score(3)})
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(**quiet, use_distributed_sampler=False, default_root_dir=tmp_path, **options)
    trainer.validate(task, DataLoader(data, batch_size=8, sampler=Uneven()), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_uneven_ranks_measure_what_one_process_does(tmp_path):
    one = validate(tmp_path, devices=1)
    two = validate(tmp_path, devices=2, strategy="ddp_spawn")
    assert two == pytest.approx(one, rel=1e-5)
    assert one.keys() == {"val_loss", "val_f1"}


def test_each_epoch_is_measured_anew(tmp_path):
    torch.manual_seed(0)
    images, net = torch.randn(6, 3, 16, 16), nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    good, bad = (DataLoader(TensorDataset(images, labels), 6) for labels in best_and_worst(net, images))
    task = ImageClassifier(net, num_classes=3)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    found = [trainer.validate(task, loader, verbose=False)[0]["val_error_rate"] for loader in (good, bad, good)]
    assert found == [0, 1, 0]


def best_and_worst(net: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits = net(images)
    return logits.argmax(1), logits.argmin(1)
