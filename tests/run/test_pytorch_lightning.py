"""A module and a Trainer of ``pytorch_lightning``, whose classes are copies of those of ``lightning.pytorch``."""

import lightning.pytorch
import pytest
import torch
from torch import nn

from lightning_finetune.callbacks import (
    FineTune,
    GradualUnfreezing,
    LogPredictions,
    LRRangeTest,
    OneCycle,
    PlotRun,
    ProgressiveResizing,
    RunReport,
    TrainingDiagnosis,
)
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError, UnsupportedError
from lightning_finetune.run.either_lightning import is_a
from tests.foreign import images, loader

theirs = pytest.importorskip("pytorch_lightning")
PACKAGES = [lightning.pytorch, theirs]


def module_of(pl):
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.body(self.stem(x)).mean((2, 3)))

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Net()


def fit(pl, folder, *callbacks, **options):
    pl.seed_everything(3, verbose=False)
    module = module_of(pl)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    trainer = pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{"logger": False, **settings, **options})
    trainer.fit(module, loader(16), loader(8))
    return module.state_dict()


def everything():
    phases = [Phase(1, "head", "find", 64), Phase(1, "all", (1e-3, 1e-2), 96)]
    return [FineTune(phases), LogPredictions(4), PlotRun(), RunReport(), TrainingDiagnosis()]


@pytest.mark.parametrize(
    "make",
    [
        everything,
        lambda: [GradualUnfreezing({0: "head", 1: "all"}), OneCycle((1e-3, 1e-2)), ProgressiveResizing({0: 64})],
        lambda: [LRRangeTest(num_steps=40, at_epochs=(0, 1), suggest="valley")],
    ],
)
def test_a_run_is_the_same_to_the_bit_with_both(tmp_path, make):
    ours, other = (fit(pl, tmp_path / pl.__name__, *make()) for pl in PACKAGES)
    assert all(torch.equal(value, other[name]) for name, value in ours.items())
    files = [{path.name for path in (tmp_path / pl.__name__).iterdir()} for pl in PACKAGES]
    assert files[0] == files[1]


@pytest.mark.parametrize("pl", PACKAGES)
def test_others_that_set_the_rate_are_known_in_both(tmp_path, pl):
    with pytest.raises(PhaseError, match="StochasticWeightAveraging both set"):
        fit(pl, tmp_path, OneCycle(), pl.callbacks.StochasticWeightAveraging(1e-3))
    with pytest.raises(PhaseError, match="BackboneFinetuning both freeze"):
        fit(pl, tmp_path, OneCycle(), pl.callbacks.BackboneFinetuning())


@pytest.mark.parametrize("pl", PACKAGES)
def test_accumulation_that_changes_is_known_in_both(tmp_path, pl):
    plan = OneCycle((1e-3, 1e-2))
    fit(pl, tmp_path, plan, pl.callbacks.GradientAccumulationScheduler({0: 2, 1: 1}))
    assert len(plan.plan_of_run) == 1 + 2


@pytest.mark.parametrize("pl", PACKAGES)
def test_strategies_are_known_in_both(pl):
    ddp, single = pl.strategies.DDPStrategy, pl.strategies.SingleDeviceStrategy
    assert is_a(single("cpu"), lightning.pytorch.strategies.SingleDeviceStrategy)
    assert is_a(ddp(), lightning.pytorch.strategies.DDPStrategy)
    assert not is_a(single("cpu"), lightning.pytorch.strategies.DDPStrategy)
    assert not is_a(images(2), lightning.pytorch.strategies.DDPStrategy)


@pytest.mark.parametrize("pl", PACKAGES)
def test_sharding_is_refused_in_both(tmp_path, pl):
    class Manual(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx): ...

        def configure_optimizers(self): ...

    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[OneCycle()], enable_checkpointing=False)
    with pytest.raises(UnsupportedError, match="automatic optimization"):
        trainer.fit(Manual(), loader(8))
