"""What a training step costs under the callbacks, against a hand-written loop and against Lightning alone.

    python benchmarks/overhead.py [--rounds 7] [--steps 200] [--device cpu] [--out FILE.json]

All train the same network with the same AdamW, in the same parameter groups, on the same batches: by hand with torch's
OneCycleLR, in a Trainer with OneCycleLR, in a Trainer with ``FineTune``, and with everything that the command adds.
They take turns; of each round the median step counts, and of the rounds the median ratio. Then, of single runs: the
calls of Python functions a step, and how often a step waits for the device (``.item()`` and its like).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import FineTune, LogConfusion, LogPredictions, Phase, PlotRun, RunReport, TrainingDiagnosis
from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.param_groups import build

WARM, BATCH, SIZE, PEAK = 20, 16, 32, 1e-3
Steps = list[float]
Way = Callable[[int, str], Steps]
"""From a number of steps and a device, ``"cpu"`` or ``"cuda"``, to when each step began."""


class Net(pl.LightningModule):
    """A small convolutional network of four layer groups; a step takes about ten milliseconds on one core."""

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self.total = total
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, 2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.neck(self.body(self.stem(images))).mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a batch; logs nothing."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """With a schedule, or without for ``FineTune``."""
        optimizer = make_optimizer(self)
        if self.total is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle(optimizer, self.total), "interval": "step"}}


def make_optimizer(net: nn.Module) -> Optimizer:
    """One for all ways."""
    return AdamW(build(layer_groups(net), lr=PEAK, weight_decay=1e-2), fused=True)


def cycle(optimizer: Optimizer, total: int) -> OneCycleLR:
    """Torch's own schedule."""
    return OneCycleLR(optimizer, PEAK, total_steps=total + 1)


def loader(steps: int, device: str) -> DataLoader:
    """Batches from the device's memory."""
    torch.manual_seed(0)
    images, labels = torch.randn(64 * BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (64 * BATCH,))
    places = torch.arange(steps * BATCH) % len(images)
    return DataLoader(TensorDataset(images.to(device), labels.to(device)), BATCH, sampler=places.tolist())


class Clock(Callback):
    """When each step began."""

    def __init__(self) -> None:
        self.began: Steps = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the time."""
        self.began.append(time.perf_counter())


def by_hand(steps: int, device: str) -> Steps:
    """The loop that anybody would write."""
    net = Net(None).to(device)
    optimizer = make_optimizer(net)
    scheduler = cycle(optimizer, steps)
    began = []
    for batch in loader(steps, device):
        began.append(time.perf_counter())
        optimizer.zero_grad()
        net.training_step(batch, 0).backward()
        optimizer.step()
        scheduler.step()
    return began


def in_trainer(callbacks: Callable[[], list[Callback]], scheduled: bool = False) -> Way:
    """A run in a Trainer that writes nothing and shows nothing."""

    def run(steps: int, device: str) -> Steps:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=1,
                accelerator="gpu" if device == "cuda" else "cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[*callbacks(), clock],
            )
            trainer.fit(Net(steps if scheduled else None), loader(steps, device))
        return clock.began

    return run


def fine_tune() -> list[Callback]:
    """One phase that trains all."""
    return [FineTune([Phase(1, "all", PEAK)])]


def everything() -> list[Callback]:
    """What ``lightning-finetune fit`` adds, but checkpoints."""
    return [*fine_tune(), LogPredictions(), LogConfusion(), PlotRun(), RunReport(), TrainingDiagnosis()]


WAYS: dict[str, Way] = {
    "by hand, OneCycleLR": by_hand,
    "Lightning, OneCycleLR": in_trainer(list, scheduled=True),
    "Lightning, FineTune": in_trainer(fine_tune),
    "Lightning, all of the command's callbacks": in_trainer(everything),
}
BARE = "Lightning, OneCycleLR"


class Waits(TorchDispatchMode):
    """Counts what reads a number from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def waits(way: Way, steps: int, device: str) -> int:
    """Reads from the device in a run."""
    with Waits() as mode:
        way(steps, device)
    return mode.count


def calls(way: Way, steps: int, device: str) -> int:
    """Calls of Python and built-in functions in a run."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        way(steps, device)
    finally:
        sys.setprofile(None)
    return count


def by_step(measure: Callable[[Way, int, str], int], way: Way, device: str) -> float:
    """What a further step adds to a run."""
    few, many = WARM, 3 * WARM
    return (measure(way, many, device) - measure(way, few, device)) / (many - few)


def time_round(number: int, steps: int, device: str) -> dict[str, float]:
    """Median milliseconds a step of each way, one after the other; in every second round in the other order."""
    found = {}
    for name in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
        began = WAYS[name](steps, device)[WARM:]
        found[name] = 1e3 * statistics.median(end - start for start, end in itertools.pairwise(began))
    return {name: found[name] for name in WAYS}


def compare(name: str, times: Mapping[str, Sequence[float]], device: str) -> dict[str, float]:
    """What a step of a way takes by its ``times`` in each round, against Lightning alone, and what it does."""
    pairs = list(zip(times[name], times[BARE], strict=True))
    return {
        "ms": statistics.median(times[name]),
        "ratio": statistics.median(one / bare for one, bare in pairs),
        "extra_us": statistics.median(1e3 * (one - bare) for one, bare in pairs),
        "calls": by_step(calls, WAYS[name], device),
        "waits": by_step(waits, WAYS[name], device),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.steps < WARM + 2:
        parser.error(f"--steps: expected at least {WARM + 2}, the first {WARM} are not counted")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = [time_round(number, options.steps, options.device) for number in range(options.rounds)]
    times = {name: [times[name] for times in found] for name in WAYS}
    rows = {name: compare(name, times, options.device) for name in WAYS}
    columns = ("way", "ms per step", "ratio to Lightning alone", "more than Lightning", "Python calls per step")
    print(f"| {' | '.join(columns)} | waits per step |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['ms']:.2f} | {row['ratio']:.3f} | {row['extra_us']:+.0f} µs | {row['calls']:.0f} "
            f"| {row['waits']:.2f} |"
        )
    if options.out:
        versions = {"torch": torch.__version__, "lightning": pl.__version__, "machine": platform.machine()}
        options.out.write_text(json.dumps({"rows": rows, "times": times, **versions}, indent=1))


if __name__ == "__main__":
    main()
