"""Your own LightningModule and data, which know nothing of this package: add the callbacks to the Trainer.

The task is like those of torchgeo: batches are dicts, and `configure_optimizers` also returns a schedule, whose place
the phases take, as they set the rates.

python examples/bring_your_own.py FOLDER    # of class folders in train and valid, such as ants and bees
"""

import sys

import lightning.pytorch as pl
import timm
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_finetune import FineTune, LogPredictions, LRRangeTest, Phase, TrainingDiagnosis

SIZE = 64


class ClassificationTask(pl.LightningModule):
    """Somebody's: a network, a loss, a metric, an optimizer with a schedule."""

    def __init__(
        self, model: str = "resnet50", in_channels: int = 3, num_classes: int = 2, lr: float = 1e-3, patience: int = 10
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = timm.create_model(model, in_chans=in_channels, num_classes=num_classes)
        self.criterion = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self(batch["image"]), batch["label"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch["image"])
        self.accuracy(logits, batch["label"])
        self.log_dict({"val_loss": self.criterion(logits, batch["label"]), "val_accuracy": self.accuracy})

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        scheduler = ReduceLROnPlateau(optimizer, patience=self.hparams.patience)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Samples(ImageFolder):
    """Class folders, each sample a dict."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {"image": image, "label": label}


def main(root: str) -> None:
    numbers = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    train = Samples(f"{root}/train", v2.Compose([v2.RandomResizedCrop(SIZE), numbers]))
    valid = Samples(f"{root}/valid", v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), numbers]))
    phases = [
        Phase(1, train="head", lr=3e-3),
        Phase(2, train="all", lr=(1e-4, 3e-3)),  # layer groups are found in any model; rates rise towards the head
    ]
    fine_tune = FineTune(phases, scheduler="replace")
    task = ClassificationTask("test_resnet", num_classes=len(train.classes))
    trainer = pl.Trainer(callbacks=[LRRangeTest(apply=False), fine_tune, LogPredictions(), TrainingDiagnosis()])
    trainer.fit(task, DataLoader(train, 32, shuffle=True), DataLoader(valid, 64))


if __name__ == "__main__":
    main(sys.argv[1])
