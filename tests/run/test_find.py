"""The range test by itself trains nothing and leaves its curve as numbers and as a picture."""

import json
import logging

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from lightning_finetune import FineTune, Phase
from lightning_finetune.run.find import FindOnly
from tests.foreign import ForeignNet, Probe, fitted, loader, quiet_trainer
from tests.resuming import assert_same_bits


@pytest.mark.parametrize("unfrozen", [False, True])
def test_it_ends_before_the_first_step_with_its_findings_on_disk(tmp_path, capsys, unfrozen):
    pl.seed_everything(3, verbose=False)
    module, callback = ForeignNet(dropout=0.0), FindOnly(unfrozen)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = fitted(tmp_path, callback, module=module, max_epochs=3)
    assert trainer.global_step == 0
    assert_same_bits(before, dict(module.state_dict()))
    written = json.loads((tmp_path / "lr_find.json").read_text())
    assert written["unfrozen"] is unfrozen
    assert written["curve"]["losses"] == callback.chosen.curve.losses
    assert written["curve"]["suggestions"].keys() >= {"steep", "valley"}
    assert isinstance(written["lr"], list) is unfrozen
    assert Image.open(tmp_path / "lr_range_phase_1.png").size[0] > 500
    assert "valley" in capsys.readouterr().out


@pytest.mark.parametrize("train_norm", [False, True])
def test_it_sweeps_as_the_run_would(tmp_path, train_norm):
    curves, run = [], FineTune([Phase(1, "head", "find")], train_norm=train_norm)
    alone = FindOnly()
    alone.treat_module_like(run)
    for callback in (alone, run):
        pl.seed_everything(3, verbose=False)
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(ForeignNet(), loader())
        found = callback.chosen if isinstance(callback, FindOnly) else callback.found[0]
        curves.append(found.curve.losses)
    assert curves[0] == curves[1]


@pytest.mark.parametrize("phases", [[Phase(1, "head", 1e-3), Phase(1, "all", 1e-5)], [Phase(2, "all", 1e-5)], None])
def test_a_resumed_run_whose_phases_say_a_rate_has_that_and_no_found_one(tmp_path, phases, caplog):
    find = [Phase(1, "head", "find"), Phase(1, "all", "find")]
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=8)
    fitted(tmp_path, first := FineTune(find), saver, enable_checkpointing=True)
    rest, probe = FineTune(phases or find), Probe()
    with caplog.at_level(logging.INFO):
        fitted(tmp_path / "rest", rest, probe, ckpt_path=tmp_path / "step=8.ckpt")
    if phases is None:
        assert rest.found == first.found
        assert "is another now" not in caplog.text
    else:
        assert probe.lrs[0][-1] < 2e-5
        assert rest.found == {}
        assert "phase 2 is another now" in caplog.text
