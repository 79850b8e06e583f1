"""The row of an epoch that a run was resumed in: Lightning tells of no start of it."""

import statistics
import time

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_finetune.callbacks import EpochTable
from tests.foreign import ForeignNet, fitted, loader, quiet_trainer


class Losses(pl.Callback):
    """Of each batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(float(outputs["loss"]))


def test_of_an_epoch_that_is_resumed_within_loss_and_time_since_then_are_told(tmp_path):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    quiet_trainer(tmp_path, callbacks=[saver], enable_checkpointing=True, max_epochs=1).fit(ForeignNet(), loader(16, 4))
    table, losses, start = EpochTable(), Losses(), time.monotonic()
    fitted(tmp_path, table, losses, data=loader(16, 4), ckpt_path=tmp_path / "step=2.ckpt", max_epochs=1)
    (row,) = table.rows
    assert 0 < row["seconds"] <= time.monotonic() - start
    assert row["train_loss"] == pytest.approx(statistics.fmean(losses.seen))


def test_a_resumed_run_goes_on_with_the_rows_that_it_had(tmp_path, capsys):
    """The best epoch may lie before the stop."""
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = EpochTable("val_loss", mode="max")  # the loss falls: the first epoch is the best
    options = {"enable_checkpointing": True, "max_epochs": 3, "callbacks": [whole, saver]}
    quiet_trainer(tmp_path, **options).fit(ForeignNet(), loader(16, 4), loader(8))
    for step, known in ((6, 1), (10, 2)):  # within the second epoch, and within the third
        table = EpochTable("val_loss", mode="max")
        fitted(tmp_path, table, data=(loader(16, 4), loader(8)), ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=3)
        assert [row["epoch"] for row in table.rows] == [1, 2, 3]
        assert table.rows[:known] == whole.rows[:known]
        assert table.best == 0
        assert " *" not in capsys.readouterr().out.splitlines()[-1]


def test_a_second_run_of_the_same_table_begins_anew(tmp_path):
    table = EpochTable()
    for _ in range(2):
        quiet_trainer(tmp_path, callbacks=[table], max_epochs=1).fit(ForeignNet(), loader(16, 4), loader(8))
    assert [row["epoch"] for row in table.rows] == [1]
