"""Every task in every situation: trained whole, in two parts, saved and loaded, with the same bits at the end."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_finetune import load, tasks
from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.phases import Phase
from tests.callbacks.situations import SITUATIONS, averaging
from tests.foreign import quiet_trainer
from tests.resuming import assert_same_bits
from tests.tasks.subjects import BATCH, TASKS, batches


def test_every_task_is_listed():
    public = {name for name in tasks.__all__ if issubclass(getattr(tasks, name), tasks.BaseTask)}
    assert public - {"BaseTask"} == set(TASKS)
    assert {name: tasks.BaseTask.known()[name] for name in TASKS} == {name: getattr(tasks, name) for name in TASKS}


def fit(folder, name, situation, resume=None):
    """Train in three phases, saving each epoch."""
    pl.seed_everything(3, verbose=False)
    module = TASKS[name]()
    every_epoch = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
    phases = FineTune([Phase(1, "head", 1e-2), Phase(1, "all", (1e-4, 1e-2)), Phase(1, "head", 1e-3)])
    trainer = quiet_trainer(
        folder,
        callbacks=[phases, every_epoch, *averaging(situation)],
        enable_checkpointing=True,
        **SITUATIONS[situation],
    )
    shown = torch.compile(module, backend="eager") if situation == "compiled" else module
    trainer.fit(shown, batches(module.kind, 16, shuffle=True), batches(module.kind, 6), ckpt_path=resume)
    return trainer, module


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_run_ends_as_the_whole_one(tmp_path, name, situation):
    trainer, whole = fit(tmp_path / "whole", name, situation)
    other, again = fit(tmp_path / "again", name, situation, resume=tmp_path / "whole" / "epoch=0.ckpt")
    assert trainer.global_step == other.global_step > 0
    assert_same_bits(dict(whole.state_dict()), dict(again.state_dict()))
    assert_same_bits(trainer.optimizers[0].state_dict()["state"], other.optimizers[0].state_dict()["state"])
    assert_same_bits(whole.learned(), again.learned())


@pytest.mark.parametrize("name", TASKS)
def test_what_is_saved_is_loaded(tmp_path, name):
    trainer, module = fit(tmp_path, name, "plain")
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = load(tmp_path / "end.ckpt")
    images, _ = next(iter(batches(module.kind, BATCH)))
    with torch.no_grad():
        assert torch.equal(again(images), module.eval()(images))
    assert_same_bits(again.learned(), module.learned())


@pytest.mark.parametrize("name", TASKS)
def test_a_development_run_makes_one_step(tmp_path, name):
    module = TASKS[name]()
    trainer = quiet_trainer(tmp_path, callbacks=[FineTune()], fast_dev_run=True)
    trainer.fit(module, batches(module.kind, 8), batches(module.kind, 4))
    assert trainer.global_step == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_last_batch_of_one_image_changes_no_number(tmp_path, name):
    task = TASKS[name]()
    whole, trainer = batches(task.kind, 5).dataset, quiet_trainer(tmp_path)
    (one,) = trainer.validate(task, DataLoader(whole, 4), verbose=False)
    (all_at_once,) = trainer.validate(task, DataLoader(whole, 5), verbose=False)
    assert one == pytest.approx(all_at_once, abs=2e-3, nan_ok=True)  # kernels round by the batch, and pixels may tip
    assert trainer.test(task, DataLoader(whole, 4), verbose=False)[0]["test_loss"] == pytest.approx(one["val_loss"])
    assert len(torch.cat(trainer.predict(task, DataLoader(whole, 4)))) == 5
