"""Is a run that is killed anywhere and started again the run that was not killed, to the bit?

    python benchmarks/kill.py DATA [--kills 50] [--seed 0]

DATA holds ``ants_bees``. A run of four phases (two image sizes, unfreezings, range tests, a checkpoint every third
step, two workers) is made once as a whole. Then, again and again, the same command is killed with SIGKILL, workers
included, at a random moment, and started anew until it ends. Weights, optimizer and metrics must be those of the whole
run, bit for bit. Prints what was going on at the kills, and each run that differs.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

ENDED = "ended.pt"
MOMENT = "moment.txt"


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help="used by this program itself: the folder of a run")
    options = parser.parse_args()
    if options.child:
        child(options.data, options.child)
        return
    draws, moments, different = random.Random(options.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began, ended = whole(options.data, folder / "whole")
        for number in range(options.kills):
            parts = folder / str(number)
            moment = kill_once(options.data, parts, draws.uniform(began, ended))
            moments[moment.partition(":")[0]] += 1
            starts = finish(options.data, parts)
            expected, got = (torch.load(one / ENDED) for one in (folder / "whole", parts))
            wrong = [part for part in expected if not equal(expected[part], got[part])]
            different += bool(wrong)
            verdict = f"DIFFERENT {', '.join(wrong)}" if wrong else "same"
            print(f"kill {number + 1}: {moment}; ended after {starts} more: {verdict}", flush=True)
            shutil.rmtree(parts)
    print(f"{options.kills} kills ({', '.join(f'{count} {what}' for what, count in moments.most_common())})")
    print(f"{options.kills - different} of {options.kills} runs ended bit for bit as the one that was not killed")
    sys.exit(different > 0)


# -- the parent --------------------------------------------------------------------------------------------------------


def start(data: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The one command, in a group of processes of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, str(data), "--child", str(folder)]
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def whole(data: Path, folder: Path) -> tuple[float, float]:
    """Make the run that nobody kills; seconds after which it began to train, and ended."""
    clock = time.perf_counter()
    process = start(data, folder)
    began = None
    while process.poll() is None:
        if began is None and (folder / MOMENT).exists():
            began = time.perf_counter() - clock
        time.sleep(0.02)
    if process.returncode or began is None:
        raise SystemExit(f"The run fails by itself:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return began, time.perf_counter() - clock


def kill_once(data: Path, folder: Path, after: float) -> str:
    """Start a run and kill it after so many seconds; what it was doing."""
    process = start(data, folder)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if (folder / ENDED).exists():
        return "after the end"
    return (folder / MOMENT).read_text() if (folder / MOMENT).exists() else "before training"


def finish(data: Path, folder: Path) -> int:
    """Start the same command again; how often it took."""
    if (folder / ENDED).exists():
        return 0
    process = start(data, folder)
    if process.wait(timeout=600):
        raise SystemExit(f"The run cannot be resumed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return 1


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values are the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


# -- the run -----------------------------------------------------------------------------------------------------------


def child(data: Path, folder: Path) -> None:
    """Train from the last checkpoint of ``folder``, or from the start."""
    import lightning.pytorch as pl

    from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase
    from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint

    class Moments(pl.Callback):
        """Writes down what goes on."""

        def note(self, words: str) -> None:
            (folder / "moment.new").write_text(words)
            (folder / "moment.new").replace(folder / MOMENT)

        def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            self.note(f"start of a phase (range test, resizing): epoch {trainer.current_epoch}")

        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            self.note(f"training step: {trainer.global_step}")

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step % 3 == 0:
                self.note(f"checkpoint: after step {trainer.global_step}")

        def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
            self.note(f"validation: epoch {trainer.current_epoch}")

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    images = ImageData.from_folder(data / "ants_bees", size=96, batch_size=32, num_workers=2)
    module = ImageClassifier("test_resnet", num_classes=images.num_classes, weights=False)
    phases = [
        Phase(1, "head", "find", size=64),
        Phase(1, "all", ("find", 3e-4), size=64),
        Phase(1, "head", 1e-3, size=96),
        Phase(1, "all", ("find", 1e-4), size=96),
    ]
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[Moments(), FineTune(phases), LastCheckpoint(every_n_train_steps=3)],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    saved = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    trainer.fit(module, datamodule=images, ckpt_path=saved[-1] if saved else None)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    result = {"weights": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict(), "metrics": metrics}
    torch.save(result, folder / "ended.new")
    (folder / "ended.new").replace(folder / ENDED)


if __name__ == "__main__":
    main()
