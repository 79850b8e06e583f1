"""BYOL as lightly's guide writes it: a momentum copy that has no gradient and moves by its author's hand."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.callbacks import OneCycle
from tests.modules.published import NEEDS, bits, fit, frozen, moved

pytest.importorskip("lightly", reason=NEEDS)
COPIES = ("backbone_momentum", "projection_head_momentum")


class BYOL(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models import modules, utils

        self.update = utils.update_momentum
        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projection_head = modules.BYOLProjectionHead(512, 32, 16)
        self.prediction_head = modules.BYOLPredictionHead(16, 32, 16)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        utils.deactivate_requires_grad(self.backbone_momentum)
        utils.deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x):
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(1)))

    def forward_momentum(self, x):
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(1)).detach()

    def training_step(self, batch, batch_idx):
        self.update(self.backbone, self.backbone_momentum, m=0.9)
        self.update(self.projection_head, self.projection_head_momentum, m=0.9)
        one, other = batch
        return self.criterion(self(one), self.forward_momentum(other)) + self.criterion(
            self(other), self.forward_momentum(one)
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06)


def views() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(TensorDataset(*(torch.randn(8, 3, 32, 32, generator=generator) for _ in range(2))), batch_size=4)


def test_a_momentum_copy_follows_and_is_not_trained(tmp_path):
    torch.manual_seed(0)
    module = BYOL()
    theirs = frozen(module)
    assert {name.split(".")[0] for name in theirs} == set(COPIES)
    head, everything = fit(tmp_path, module, views())
    trained = {name.split(".")[0] for name in head} - set(COPIES)
    assert trained == {"projection_head", "prediction_head"}
    assert {"backbone.0.weight", "backbone_momentum.0.weight"} <= everything
    assert frozen(module) == theirs
    before = bits(module)
    head, _ = fit(tmp_path, module, views())  # a second fit takes nothing of the first for the author's
    assert not {name for name in head if name.startswith("backbone.")}
    assert {"backbone.0.weight", "backbone_momentum.0.weight"} <= moved(before, module)
    assert frozen(module) == theirs


def test_a_copy_follows_to_the_bit_as_it_does_without_callbacks(tmp_path):
    """One phase that trains all, at the author's own rate: nothing but the rates would differ, and they do not."""
    torch.manual_seed(0)
    ours = BYOL()
    plain = copy.deepcopy(ours)
    flat = OneCycle(0.06, div=1, div_final=1, moms=None)
    fit(tmp_path, ours, views(), flat, max_epochs=1)
    fit(tmp_path, plain, views(), pl.Callback(), max_epochs=1)
    assert not moved(bits(ours), plain)
