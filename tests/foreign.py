"""LightningModules and data that know nothing of the package, as a user's would."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate


class ForeignNet(pl.LightningModule):
    """A small convolutional net with norm layers and dropout, and one flat optimizer."""

    def __init__(self, optimizer: str = "adamw", lr: float = 1e-2, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.kind, self.lr = optimizer, lr
        norms = (lambda n: nn.BatchNorm2d(n)) if norm else (lambda n: nn.Identity())
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norms(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norms(8), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norms(8), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.neck(self.body(self.stem(x))).mean((2, 3))))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        if self.kind == "sgd":
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Untrained(ForeignNet):
    """Fails where a batch is trained."""

    def training_step(self, batch, batch_idx):
        pytest.fail("a batch was trained")


class Worse(ForeignNet):
    """Logs what never gets better."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("worse", float(self.global_step))
        return loss


def images(count: int = 48, seed: int = 0, size: int = 8) -> TensorDataset:
    """Noise with a colour of its class, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    noise, labels = (
        torch.randn(count, 3, size, size, generator=generator),
        torch.randint(0, 4, (count,), generator=generator),
    )
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [-1.0, -1.0, 0]])
    return TensorDataset(noise + colours[labels, :, None, None], labels)


def loader(count: int = 48, batch_size: int = 8, seed: int = 0, **kwargs) -> DataLoader:
    return DataLoader(images(count, seed), batch_size=batch_size, **kwargs)


class Resumable:
    """A loader that is no DataLoader, and that says how far it is; ``given`` are the first items of its batches."""

    def __init__(self, count: int = 48, size: int = 8) -> None:
        self.images, self.batches, self.batch, self.epochs = images(count, size=size), count // 8, 0, 0
        self.given: list[int] = []

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        if self.batch == self.batches:  # whoever knows the length does not ask for more
            self.batch, self.epochs = 0, self.epochs + 1
        while self.batch < self.batches:
            first = (self.epochs * 7 + 8 * self.batch) % len(self.images)
            self.batch += 1
            self.given.append(first)
            yield default_collate([self.images[(first + number) % len(self.images)] for number in range(8)])

    def state_dict(self):
        return {"batch": self.batch, "epochs": self.epochs}

    def load_state_dict(self, state):
        self.batch, self.epochs = state["batch"], state["epochs"]


def quiet_trainer(tmp_path, **kwargs) -> pl.Trainer:
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**{**settings, **kwargs})


class Probe(pl.Callback):
    """Records, for each optimizer step, the rates and momentum it was made with, and what trained."""

    def __init__(self) -> None:
        self.lrs: list[list[float]] = []
        self.momentum: list[float] = []
        self.trainable: list[set[str]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.lrs.append([group["lr"] for group in optimizer.param_groups])
        group = optimizer.param_groups[0]
        self.momentum.append(group["betas"][0] if "betas" in group else group["momentum"])
        self.trainable.append({name for name, param in pl_module.named_parameters() if param.requires_grad})
