"""Every callback in every situation: trained whole, and trained in two parts, with the same bits at the end."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging

from lightning_finetune import callbacks
from lightning_finetune.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_finetune.engine.phases import Phase
from lightning_finetune.run.phased import PhasedCallback
from tests.foreign import ForeignNet, loader, quiet_trainer
from tests.run.test_resume import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore:WatchModel does nothing")
EPOCHS = 3
CALLBACKS = {
    "FineTune": lambda: callbacks.FineTune(
        [Phase(1, "head", 1e-2), Phase(2, "all", (1e-4, 1e-2), size=64)], min_size=32
    ),
    "GradualUnfreezing": lambda: callbacks.GradualUnfreezing({0: "head", 1: 2, 2: "all"}),
    "OneCycle": lambda: callbacks.OneCycle((1e-4, 1e-2)),
    "LRRangeTest": lambda: callbacks.LRRangeTest(num_steps=20, at_epochs=(0, 2), apply=False),
    "ProgressiveResizing": lambda: callbacks.ProgressiveResizing({0: 32, 2: 64}, min_size=32),
    "LogConfusion": lambda: callbacks.LogConfusion(),
    "LogPredictions": lambda: callbacks.LogPredictions(),
    "PlotRun": lambda: callbacks.PlotRun(),
    "RunReport": lambda: callbacks.RunReport(),
    "TrainingDiagnosis": lambda: callbacks.TrainingDiagnosis(),
    "WatchModel": lambda: callbacks.WatchModel(),
    "BestCheckpoint": lambda: BestCheckpoint(),
    "LastCheckpoint": lambda: LastCheckpoint(every_n_train_steps=4),
}
SITUATIONS = {
    "plain": {},
    "bf16": {"precision": "bf16-mixed"},
    "accumulation": {"accumulate_grad_batches": 4},
    "clipping": {"gradient_clip_val": 0.1},
    "part of the data": {"limit_train_batches": 0.5, "limit_val_batches": 1},
    "no validation": {"limit_val_batches": 0},
    "overfitting": {"overfit_batches": 2},
    "EMA": {},
    "SWA": {},
    "compiled": {},
}
"""What the Trainer is told, or, where that is nothing, what :func:`fit` does."""


def test_every_callback_is_listed():
    public = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), pl.Callback)}
    assert public - set(CALLBACKS) == set()


def averaging(situation) -> list[pl.Callback]:
    """Lightning's own callback that averages weights, where the situation is one."""
    makers = {
        "EMA": lambda: EMAWeightAveraging(decay=0.9),
        "SWA": lambda: StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1),
    }
    return [makers[situation]()] if situation in makers else []


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
