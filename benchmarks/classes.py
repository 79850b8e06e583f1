"""How does a run grow with the number of classes, and with the steps behind it?

    python benchmarks/classes.py [--classes 10 1000 10000] [--images 2000] [--out classes.json]

A small network trains two epochs on noise under all callbacks of the command and validates after each; each line is a
process of its own. Given are the CPU time to make the model, of a training step, of a validation batch and of the end
of a validation (metrics, tables and pictures), the medians, and the most memory beyond the imports. Then the CPU time
that the plan and the history take at one step, after so many steps and phases.

Needs psutil.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCH = 64
TASKS = {"single": "ImageClassifier", "multi": "MultiLabelClassifier"}


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help="used by this program itself: task, classes")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(options.child[0], int(options.child[1]), options.images)))
        return
    rows = [child(task, classes, options.images) for task in TASKS for classes in options.classes]
    steps = [hooks(steps, phases) for steps, phases in ((100, 2), (1000, 2), (10_000, 2), (1000, 20), (1000, 200))]
    for table in (rows, steps):
        print("\n| " + " | ".join(table[0]) + " |\n" + "|---" * len(table[0]) + "|")
        for row in table:
            print(
                "| "
                + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values())
                + " |"
            )
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "classes": rows, "steps": steps}, indent=1) + "\n")


def machine() -> str:
    """What the numbers were measured on."""
    return f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def child(task: str, classes: int, images: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--child", task, str(classes), "--images", str(images)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} {classes}:\n{done.stderr[-3000:]}")
    row = {"targets": task, "classes": classes, **json.loads(done.stdout.splitlines()[-1])}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


# -- one run -----------------------------------------------------------------------------------------------------------


class Noise(Dataset[dict[str, torch.Tensor]]):
    """Images and targets that mean nothing."""

    def __init__(self, task: str, classes: int, images: int) -> None:
        self.task, self.classes, self.images = task, classes, images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        label = torch.tensor(item * 7919 % self.classes)
        if self.task == "multi":
            label = torch.zeros(self.classes).index_fill(0, label, 1)
        return {"image": torch.full((3, 32, 32), item % 13 / 13), "label": label}


def network() -> nn.Module:
    """64 features of an image."""
    return nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def run(task: str, classes: int, images: int) -> dict[str, float]:
    """Train and validate."""
    import lightning.pytorch as pl

    import lightning_finetune as lf
    from lightning_finetune.cli.loggers import RunLogger

    quiet()
    times: dict[str, list[float]] = {"step": [], "batch": [], "end": []}

    class Clock(pl.Callback):
        """Before all the others."""

        def on_train_batch_start(self, *_: Any) -> None:
            self.began = time.process_time()

        on_validation_batch_start = on_train_batch_start

    class Last(pl.Callback):
        """After all the others."""

        def on_train_batch_end(self, *_: Any) -> None:
            times["step"].append(time.process_time() - clock.began)

        def on_validation_batch_end(self, *_: Any) -> None:
            self.ended = time.process_time()
            times["batch"].append(self.ended - clock.began)

        def on_validation_end(self, *_: Any) -> None:
            times["end"].append(time.process_time() - self.ended)

    clock, last = Clock(), Last()
    before = psutil.Process().memory_info().rss
    start = time.process_time()
    module = getattr(lf, TASKS[task])(network(), num_classes=classes)
    built = time.process_time() - start
    followers = [lf.LogConfusion(), lf.LogPredictions(), lf.PlotRun(), lf.TrainingDiagnosis(), lf.RunReport()]
    phases = [lf.Phase(1, "head", 1e-3), lf.Phase(1, "all", 1e-3)]
    loaders = [DataLoader(Noise(task, classes, images), BATCH) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            callbacks=[clock, lf.FineTune(phases), *followers, last],
            logger=RunLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(module, *loaders)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "model (CPU s)": built,
        "step (CPU ms)": 1000 * found["step"],
        "validation batch (CPU ms)": 1000 * found["batch"],
        "end of validation (CPU s)": found["end"],
        "memory (MB)": (peak - before) / 1e6,
    }


def quiet() -> None:
    """Nothing but the numbers."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)


# -- steps -------------------------------------------------------------------------------------------------------------


def hooks(steps: int, phases: int) -> dict[str, float]:
    """Microseconds that a plan takes to say what holds, and a history to take it, after so many steps."""
    from lightning_finetune.engine.history import History, Settings
    from lightning_finetune.engine.phases import Phase
    from lightning_finetune.engine.plan import make_plan

    start = time.process_time()
    plan = make_plan([Phase(5, "all", 1e-3) for _ in range(phases)], steps, num_groups=10)
    made = time.process_time() - start
    total, tries = len(plan), 1000
    places = [number * (total - 1) // tries for number in range(tries)]
    history, settings, loss = History(), Settings({"head": 1e-3}), torch.tensor(0.0)
    for step in range(steps):
        history.add(step, settings, loss)

    def each(call: Any) -> float:
        start = time.process_time()
        for place in places:
            call(place)
        return 1e6 * (time.process_time() - start) / tries

    return {
        "steps an epoch": steps,
        "phases": phases,
        "plan made (ms)": 1000 * made,
        "plan[step] (us)": each(plan.__getitem__),
        "plan.at(epoch, step) (us)": each(lambda place: plan.at(place // steps, place)),
        "record a step (us)": each(lambda place: history.add(steps + place, settings, loss)),
        "record an epoch (us)": each(lambda place: history.measure(place, {"val_loss": 0.0})),
    }


if __name__ == "__main__":
    main()
