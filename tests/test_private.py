"""What of Lightning and torch is not documented: used in one file, and there."""

import inspect
import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loops import _FitLoop

PACKAGE = Path(__file__).parents[1] / "lightning_finetune"
ADAPTER = PACKAGE / "run/trainer.py"
# An object of theirs, by the names that this package gives them, and something of it that begins with one underscore.
PRIVATE = re.compile(r"\b(?:trainer|loop|fit_loop|strategy|pl_module|module|optimizer|logger|scheduler)\._[a-z]\w*")


def test_only_the_adapter_knows_private_parts() -> None:
    found = {path: PRIVATE.findall(path.read_text()) for path in PACKAGE.rglob("*.py") if path != ADAPTER}
    assert {path.name: names for path, names in found.items() if names} == {}


def test_the_adapter_names_each_and_each_is_there() -> None:
    text = ADAPTER.read_text()
    used = {name.split(".")[1] for name in PRIVATE.findall(text.partition('"""\n\n')[2])}
    assert used == {"_data_fetcher", "_on_before_batch_transfer"}
    assert all(name in text.partition('"""\n\n')[0] for name in used), "the docstring names them"
    assert "_data_fetcher" in inspect.getsource(_FitLoop.__init__)
    assert callable(pl.LightningModule._on_before_batch_transfer)
