"""Two hundred short phases leak nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import gc, os, sys, tempfile, warnings
import lightning.pytorch as pl
import torch
from lightning_finetune.callbacks import FineTune, LogPredictions, PlotRun
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, loader, quiet_trainer

warnings.filterwarnings("ignore")
torch.set_num_threads(1)

class Meter(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if (trainer.current_epoch + 1) % 20 == 0:
            gc.collect()
            pages = int(open("/proc/self/statm").read().split()[1])
            others = [len(os.listdir(place)) for place in ("/proc/self/fd", "/proc/self/task", tempfile.gettempdir())]
            print("meter", trainer.current_epoch + 1, pages, *others, flush=True)

phases = [
    Phase(1, "head" if number % 2 else "all", "find" if number % 10 == 0 else 1e-3, size=32 if number % 3 else 64)
    for number in range(200)
]
callbacks = [FineTune(phases, min_size=32), PlotRun(), LogPredictions(4), Meter()]
trainer = quiet_trainer(sys.argv[1], callbacks=callbacks)
trainer.fit(ForeignNet(), loader(16), loader(8, seed=1))
"""


@pytest.mark.slow
def test_memory_files_threads_and_temporary_folders_stay_flat(tmp_path: Path):
    """Between epochs 100 and 200; before, allocators and caches of figures still fill."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("meter")]
    found = {int(epoch): [*map(int, counts)] for epoch, *counts in rows}
    assert found[200][0] <= 1.02 * found[100][0], found
    for what, first, last in zip(("files", "threads", "temporary files"), found[20][1:], found[200][1:], strict=True):
        assert last <= first, (what, found)
