"""What Lightning offers goes with phases: several loaders, averages of weights, batch sizes that are found."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, WeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from torch.nn import functional as F

from lightning_finetune.callbacks import FineTune, LRRangeTest, PlotRun, TrainingDiagnosis
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, Probe, fitted, loader, quiet_trainer
from tests.resuming import assert_same_bits


def phases() -> list[Phase]:
    return [Phase(1, "head", 1e-2), Phase(1, "all", (1e-3, 1e-2))]


class OfTwo(ForeignNet):
    """Trains on batches of two loaders, and validates on two."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


def fit_two(tmp_path, mode, *callbacks):
    pl.seed_everything(3, verbose=False)
    module, probe = OfTwo(), Probe()
    trainer = fitted(
        tmp_path,
        *callbacks,
        FineTune(phases()),
        TrainingDiagnosis(),
        PlotRun(),
        probe,
        module=module,
        data=(CombinedLoader({"a": loader(32), "b": loader(16, seed=2)}, mode), [loader(8), loader(8, seed=4)]),
    )
    return module, trainer, probe


@pytest.mark.parametrize(("mode", "steps"), [("max_size_cycle", 4), ("min_size", 2)])
def test_several_loaders(tmp_path, mode, steps):
    module, trainer, probe = fit_two(tmp_path, mode)
    assert [len(trained) == 2 for trained in probe.trainable] == [True] * steps + [False] * steps
    assert {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"} <= set(trainer.callback_metrics)
    tested, _, _ = fit_two(tmp_path, mode, LRRangeTest(num_steps=6, apply=False))
    assert_same_bits(module.state_dict(), tested.state_dict())


def test_the_plan_has_the_steps_of_the_batch_size_that_was_found(tmp_path):
    class Data(pl.LightningDataModule):
        batch_size = 2

        def train_dataloader(self):
            return loader(48, batch_size=self.batch_size)

        def val_dataloader(self):
            return loader(8)

    pl.seed_everything(3, verbose=False)
    module, data, probe = ForeignNet(), Data(), Probe()
    finder = BatchSizeFinder(mode="power", steps_per_trial=1, max_trials=2)
    trainer = fitted(tmp_path, finder, FineTune(phases()), probe, module=module, data=data, enable_checkpointing=True)
    assert data.batch_size == 4
    assert trainer.global_step == 24
    usual = Probe()
    quiet_trainer(tmp_path, callbacks=[FineTune(phases()), usual]).fit(ForeignNet(), loader(48, batch_size=4))
    assert probe.lrs[-24:] == usual.lrs


def test_averages_of_weights_are_of_what_trained(tmp_path):
    heads: list[torch.Tensor] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            heads.append(pl_module.head.weight.detach().clone())

    module = ForeignNet()
    stem = module.stem[0].weight.detach().clone()
    callbacks = [FineTune([Phase(2, "head", 1e-2)]), Keep(), WeightAveraging()]
    quiet_trainer(tmp_path, callbacks=callbacks).fit(module, loader(32))
    assert torch.equal(module.stem[0].weight, stem)
    assert all(param.requires_grad for param in module.parameters())
    torch.testing.assert_close(module.head.weight.detach(), torch.stack(heads).mean(0))
