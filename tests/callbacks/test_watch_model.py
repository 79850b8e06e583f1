import pytest

from lightning_finetune.callbacks import GradualUnfreezing, WatchModel
from tests.foreign import ForeignNet, fitted, loader, quiet_trainer
from tests.wandb_files import read_history

wandb = pytest.importorskip("wandb")


def test_gradients_of_what_is_unfrozen_later_are_seen_too(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.delenv("WANDB_MODE", raising=False)
    callbacks = [GradualUnfreezing({0: "head", 1: "all"}), WatchModel(log_freq=1)]
    logger = WandbLogger(project="tests", save_dir=tmp_path, offline=True)
    fitted(tmp_path, *callbacks, logger=logger, max_epochs=2, log_every_n_steps=1)
    wandb.finish()
    history = read_history(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    head = [name for name in history if name.startswith("gradients/head.weight")]
    stem = [name for name in history if name.startswith("gradients/stem.0.weight")]
    assert head
    assert stem, "the stem trains in the second epoch"
    assert len(history[head[0]]) > len(history[stem[0]])


def test_without_weights_and_biases_it_says_so(tmp_path):
    with pytest.warns(UserWarning, match="WatchModel does nothing: it needs a WandbLogger"):
        quiet_trainer(tmp_path, callbacks=[WatchModel()], max_epochs=1).fit(ForeignNet(), loader())
