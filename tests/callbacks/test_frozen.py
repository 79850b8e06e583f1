"""Frozen means frozen: whatever the optimizer, the modes and other callbacks do."""

import lightning.pytorch as pl
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.callbacks import FineTune, GradualUnfreezing
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, Moved, fitted, images, loader, quiet_trainer, settings

PARTS = ("stem", "body", "neck", "head")


def shifted() -> DataLoader:
    """Images far from what the norm layers have seen, so that their statistics would move."""
    x, y = images(48).tensors
    return DataLoader(TensorDataset(3 * x + 2, y), batch_size=8)


class CallsTrain(pl.Callback):
    """Another's callback that puts the whole module in train mode whenever it can."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.train()

    on_validation_end = on_train_epoch_start

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.train()


class TrainsInStep(ForeignNet):
    def training_step(self, batch, batch_idx):
        self.train()
        return super().training_step(batch, batch_idx)


class EvalsOwn(ForeignNet):
    """Evaluates its own validation in the middle of a step and goes back to training."""

    def training_step(self, batch, batch_idx):
        self.eval()
        with torch.no_grad():
            self(batch[0])
        self.train()
        return super().training_step(batch, batch_idx)


def fit(tmp_path, callbacks, module, data=None, **options) -> list[set[str]]:
    pl.seed_everything(3, verbose=False)
    epochs = Moved()
    fitted(
        tmp_path, *callbacks, epochs, module=module, data=(data or shifted(), shifted()), **{"max_epochs": 2, **options}
    )
    return epochs.names


def of(module, *parts: str) -> set[str]:
    return {name for name in module.state_dict() if name.startswith(parts)}


@pytest.mark.parametrize("train_in_between", [False, True])
@pytest.mark.parametrize("make", [ForeignNet, TrainsInStep, EvalsOwn])
def test_nothing_of_what_is_frozen_moves(tmp_path, make, train_in_between):
    """Not the weights, by decay or momentum; not the running statistics, whoever calls ``train()``."""
    module = make()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    extra = [CallsTrain()] if train_in_between else []
    unfreezing = GradualUnfreezing({0: "head", 1: 2})
    found = fit(tmp_path, [*extra, unfreezing], module, val_check_interval=2)
    assert found == [of(module, "head"), of(module, "neck", "head")]


def test_a_callback_after_ours_cannot_thaw_norm_layers(tmp_path):
    module = ForeignNet()
    assert fit(tmp_path, [GradualUnfreezing({0: "head"}), CallsTrain()], module) == [of(module, "head")] * 2


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_refreezing_moves_nothing_though_momentum_is_there(tmp_path, optimizer):
    module = ForeignNet()
    options = {"momentum": 0.9} if optimizer in (torch.optim.SGD, torch.optim.RMSprop) else {}
    module.configure_optimizers = lambda: optimizer(module.parameters(), lr=1e-2, weight_decay=0.1, **options)
    phases = [Phase(1, "all", 1e-2), Phase(1, "head", 1e-2), Phase(1, "all", 1e-2)]
    found = fit(tmp_path, [FineTune(phases)], module, max_epochs=3)
    assert found == [set(module.state_dict()), of(module, "head"), set(module.state_dict())]


def test_a_frozen_layer_computes_in_training_what_it_does_in_evaluation(tmp_path):
    class Compare(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            body = nn.Sequential(pl_module.stem, pl_module.body)
            with torch.no_grad():
                in_training = body(batch[0])
                in_evaluation = body.eval()(batch[0])
                body.train()
            assert torch.equal(in_training, in_evaluation)

    fit(tmp_path, [GradualUnfreezing({0: "head", 1: 2}), Compare()], ForeignNet())


@pytest.mark.parametrize("count", [1, 2])
def test_norm_layers_train_on_request_as_fastai_has_it(tmp_path, count):
    module = ForeignNet()
    [found, _] = fit(tmp_path, [GradualUnfreezing({0: count}, train_norm=True)], module)
    norms = {name for name in module.state_dict() if name.split(".")[1] == "1"}
    assert found == of(module, *PARTS[-count:]) | norms


def test_the_head_phase_of_a_unet_trains_decoder_and_head_only(tmp_path):
    class Segmenter(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.unet = smp.Unet("resnet18", encoder_weights=None, classes=2, decoder_channels=(32, 16, 16, 8, 8))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.unet(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 64, 64, generator=generator) + 2
    data = DataLoader(TensorDataset(x, (x[:, 0] > 2).long()), batch_size=2)
    module, epochs = Segmenter(), Moved()
    fitted(tmp_path, GradualUnfreezing({0: "head"}), epochs, module=module, data=data, max_epochs=1)
    assert {name.split(".")[1] for name in epochs.names[0]} == {"decoder", "segmentation_head"}
    trained = {name for name, param in module.named_parameters() if "encoder" not in name}
    assert trained <= epochs.names[0]


@pytest.mark.parametrize("end", ["head", "all"])
def test_evaluation_changes_no_mode_and_no_requires_grad(tmp_path, end):
    module = ForeignNet()
    first = "all" if end == "head" else "head"
    trainer = fitted(
        tmp_path, GradualUnfreezing({0: first, 1: end}), module=module, data=(loader(), loader(8)), max_epochs=2
    )
    before = settings(module)
    assert all(before[0].values())
    trainer.validate(module, loader(8), verbose=False)
    assert settings(module) == before
    trainer.test(module, loader(8), verbose=False)
    assert settings(module) == before
    trainer.predict(module, loader(8))
    assert settings(module) == before


def test_evaluation_before_any_fit_freezes_nothing(tmp_path):
    module = ForeignNet()
    before = settings(module)
    trainer = quiet_trainer(tmp_path, callbacks=[FineTune([Phase(1, "head")])])
    trainer.validate(module, loader(8), verbose=False)
    assert settings(module) == before


def test_validation_within_the_run_changes_no_mode(tmp_path):
    class Around(pl.Callback):
        def on_validation_start(self, trainer, pl_module):
            self.grads = settings(pl_module)[0]

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            norms = [pl_module.get_submodule(f"{part}.1") for part in PARTS[:3]]
            trained = trainer.current_epoch  # one more from the second epoch on
            assert [norm.training for norm in norms] == [False, False, trained == 1]

        def on_validation_end(self, trainer, pl_module):
            assert settings(pl_module)[0] == self.grads

    fit(tmp_path, [GradualUnfreezing({0: "head", 1: 2}), Around()], ForeignNet(), val_check_interval=2)


def test_a_module_that_was_fitted_is_free_again(tmp_path):
    """Norm layers obey ``train()`` after the run, and what was frozen for it has gradients."""
    module = ForeignNet()
    fit(tmp_path, [GradualUnfreezing({0: "head"})], module)
    assert all(param.requires_grad for param in module.parameters())
    assert not module.eval().stem[1].training
    assert module.train().stem[1].training
