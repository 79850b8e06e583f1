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


class Scheduled(ForeignNet):
    """Returns a scheduler, as torchgeo's tasks, the notebooks of segmentation-models-pytorch and many others do."""

    def __init__(self, make, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.make = make

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": self.make(optimizer)}


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


def fitted(folder, *callbacks, module=None, data=None, ckpt_path=None, **options) -> pl.Trainer:
    """A Trainer that has fitted a module to a loader, to those of training and validation, or to a data module."""
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **options)
    loaders = data if isinstance(data, tuple) else (loader() if data is None else data,)
    trainer.fit(ForeignNet() if module is None else module, *loaders, ckpt_path=ckpt_path)
    return trainer


def bits(module: nn.Module, *parts: str) -> dict[str, torch.Tensor]:
    """A copy of its state, or of those of its ``parts``."""
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name.startswith(parts or "")}


def settings(module: nn.Module) -> tuple[dict[str, bool], dict[str, bool]]:
    """What has a gradient, and what is in train mode."""
    return (
        {name: param.requires_grad for name, param in module.named_parameters()},
        {name: part.training for name, part in module.named_modules()},
    )


class Moved(pl.Callback):
    """The parameters and buffers that changed in each epoch, and the children that hold them."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []
        self.parts: list[set[str]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.before = bits(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        moved = {name for name, value in bits(pl_module).items() if not torch.equal(value, self.before[name])}
        self.names.append(moved)
        self.parts.append({name.replace("_orig_mod.", "").split(".")[0] for name in moved})


class StopAfter(pl.Callback):
    """Ends the run after so many epochs, before the Trainer's last."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


class Fails(pl.Callback):
    """Raises before a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise self.error


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


def probed(folder, *callbacks, **options) -> Probe:
    """What a run's steps were made with; see :func:`fitted`."""
    probe = Probe()
    fitted(folder, *callbacks, probe, **options)
    return probe
