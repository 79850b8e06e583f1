"""Every callback in every situation: trained whole, and trained in two parts, with the same bits at the end."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_finetune import callbacks
from lightning_finetune.run.phased_callback import PhasedCallback
from tests.callbacks.situations import CALLBACKS, SITUATIONS, averaging
from tests.foreign import ForeignNet, loader, quiet_trainer
from tests.resuming import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore:WatchModel does nothing")
EPOCHS = 3


def test_every_callback_is_listed():
    public = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), pl.Callback)}
    assert public - set(CALLBACKS) == set()


def fit(folder, name, situation, epochs=EPOCHS, resume=None):
    """Train for some epochs, saving each; what a run is made of."""
    pl.seed_everything(3, verbose=False)
    module = ForeignNet()
    every_epoch = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
    own = CALLBACKS[name]()
    # Lightning keeps no random state, so that a run without any of our schedules does not resume to the same bits.
    schedule = [] if isinstance(own, PhasedCallback) else [callbacks.OneCycle((1e-4, 1e-2))]
    average = averaging(situation)
    trainer = quiet_trainer(
        folder,
        max_epochs=epochs,
        callbacks=[own, *schedule, every_epoch, *average],
        enable_checkpointing=True,
        **SITUATIONS[situation],
    )
    shown = torch.compile(module, backend="eager") if situation == "compiled" else module
    trainer.fit(shown, loader(shuffle=True), loader(16, seed=1), ckpt_path=resume)
    return trainer.global_step, dict(module.state_dict()), trainer.optimizers[0].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_resumed_run_ends_as_the_whole_one(tmp_path, name, situation):
    steps, weights, optimizer = fit(tmp_path / "whole", name, situation)
    again = fit(tmp_path / "again", name, situation, resume=tmp_path / "whole" / "epoch=0.ckpt")
    assert steps == again[0] > 0
    assert_same_bits(weights, again[1])
    assert_same_bits(optimizer["state"], again[2]["state"])


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_development_run_makes_one_step(tmp_path, name):
    trainer = quiet_trainer(tmp_path, callbacks=[CALLBACKS[name]()], fast_dev_run=True, enable_checkpointing=True)
    trainer.fit(ForeignNet(), loader(), loader(16, seed=1))
    assert trainer.global_step == 1
