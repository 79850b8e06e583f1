"""The range test by itself trains nothing and leaves its curve as numbers and as a picture."""

import json

import lightning.pytorch as pl
import pytest
from PIL import Image

from lightning_finetune.callbacks.find_only import FindOnly
from tests.callbacks.test_resume import assert_same_bits
from tests.foreign import ForeignNet, loader, quiet_trainer


@pytest.mark.parametrize("unfrozen", [False, True])
def test_it_ends_before_the_first_step_with_its_findings_on_disk(tmp_path, capsys, unfrozen):
    pl.seed_everything(3, verbose=False)
    module, callback = ForeignNet(dropout=0.0), FindOnly(unfrozen)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[callback])
    trainer.fit(module, loader())
    assert trainer.global_step == 0
    assert_same_bits(before, dict(module.state_dict()))
    written = json.loads((tmp_path / "lr_find.json").read_text())
    assert written["unfrozen"] is unfrozen
    assert written["curve"]["losses"] == callback.found.curve.losses
    assert written["curve"]["suggestions"].keys() >= {"steep", "valley"}
    assert isinstance(written["lr"], list) is unfrozen
    assert Image.open(tmp_path / "lr_range_phase_1.png").size[0] > 500
    assert "valley" in capsys.readouterr().out
