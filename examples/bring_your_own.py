"""Your own LightningModule and data, which know nothing of this package: add the callbacks, change nothing else.

python examples/bring_your_own.py FOLDER    # of class folders in train and valid, such as ants and bees
"""

import sys

import lightning.pytorch as pl
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_finetune import FineTune, LRRangeTest, Phase, TrainingDiagnosis

SIZE = 64


class Task(pl.LightningModule):
    """As in any project: a network, a loss, a metric, and a plain optimizer without a schedule."""

    def __init__(self, num_classes: int, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = timm.create_model("test_resnet", num_classes=num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.model(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.accuracy(logits, batch[1])
        self.log("val_accuracy", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def main(root: str) -> None:
    numbers = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    train = ImageFolder(f"{root}/train", v2.Compose([v2.RandomResizedCrop(SIZE), numbers]))
    valid = ImageFolder(f"{root}/valid", v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), numbers]))
    phases = [
        Phase(1, train="head", lr=3e-3),
        Phase(2, train="all", lr=(1e-4, 3e-3)),  # layer groups are found in any model; rates rise towards the head
    ]
    trainer = pl.Trainer(callbacks=[LRRangeTest(apply=False), FineTune(phases), TrainingDiagnosis()])
    trainer.fit(Task(len(train.classes)), DataLoader(train, 32, shuffle=True), DataLoader(valid, 64))


if __name__ == "__main__":
    main(sys.argv[1])
