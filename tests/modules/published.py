"""Fitting modules that were published, and looking at what became of them."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.phases import Phase
from tests.foreign import quiet_trainer

NEEDS = "needs the packages of `make test-modules`"


def phases() -> list[Phase]:
    return [Phase(1, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))]


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def frozen(module: nn.Module) -> set[str]:
    return {name for name, param in module.named_parameters() if not param.requires_grad}


class MovedByEpoch(pl.Callback):
    """Names of what moved in each epoch."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.before = bits(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.names.append(moved(self.before, pl_module))


def fit(tmp_path, module: pl.LightningModule, data: DataLoader, *callbacks: pl.Callback, **options) -> list[set[str]]:
    pl.seed_everything(3, verbose=False)
    epochs = MovedByEpoch()
    given = callbacks or (FineTune(phases()),)
    quiet_trainer(tmp_path, callbacks=[*given, epochs], **options).fit(module, data)
    return epochs.names
