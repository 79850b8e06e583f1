"""Where do range tests point, how much does that vary over seeds, and which rate trains best?

    python benchmarks/range_test.py record DATA [--settings ants/lite0 ...] [--seeds 8]
    python benchmarks/range_test.py evaluate
    python benchmarks/range_test.py train DATA [--settings ants/lite0 ...] [--seeds 3]
    python benchmarks/range_test.py find DATA [--sets ants_bees ...] [--folds 2]
    python benchmarks/range_test.py cost DATA [--settings satellite/lite0 ...] [--seeds 3]

DATA holds ``ants_bees``, ``satellite`` and ``camvid``. ``record`` tests before a head phase and, two epochs later,
before an unfrozen one, and adds the curves to ``range_curves.json``; what a person reads off each ("the last rate
before the loss shoots up") is then written by hand into its ``hand``. ``evaluate`` compares all suggestions, those of
Lightning too, on the same curves and draws ``docs/pictures/range-test.png``. ``train`` makes short runs with what each
suggests. ``find`` compares the measured recipe with and without ``find=True``. ``cost`` times a range test of 100 steps
against 100 steps of training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.tuner.lr_finder import _LRFinder
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lightning_finetune import (
    FineTune,
    GradualUnfreezing,
    ImageClassifier,
    ImageData,
    LRRangeTest,
    Phase,
    UNetSegmenter,
)
from lightning_finetune.engine.range_test import Curve, choose, rates_between, record_curve, suggest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from screen import RULE, split  # noqa: E402

CURVES = HERE / "range_curves.json"
PICTURE = HERE.parent / "docs" / "pictures" / "range-test.png"
RATES = rates_between(1e-7, 10.0, 100)
NAMES = ("lightning", "steep", "valley", "slide", "minimum", "elbow")
UNFREEZE = 2  # epochs that the head trains before the second test
Record = dict[str, Any]
Slice = float | tuple[float, float]
Weights = dict[str, torch.Tensor] | None


def main() -> None:
    """Do what the subcommand says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = {"record": list(SETTINGS), "train": ["ants/lite0"], "cost": ["satellite/lite0"]}
    for name, seeds in (("record", 8), ("train", 3), ("cost", 3)):
        command = commands.add_parser(name)
        command.add_argument("data", type=Path)
        command.add_argument("--seeds", type=int, default=seeds)
        command.add_argument("--settings", nargs="+", choices=SETTINGS, default=defaults[name])
    command = commands.add_parser("find")
    command.add_argument("data", type=Path)
    command.add_argument("--sets", nargs="+", default=["ants_bees", "satellite", "digits"])
    command.add_argument("--folds", type=int, default=2)
    commands.add_parser("evaluate")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.command == "record":
        record(options.data, options.settings, options.seeds)
    elif options.command == "train":
        for setting in options.settings:
            print(setting)
            train(options.data, setting, options.seeds)
    elif options.command == "find":
        find(options.data, options.sets, options.folds)
    elif options.command == "cost":
        for setting in options.settings:
            cost(options.data, setting, options.seeds)
    else:
        evaluate()


# -- data, models and a quiet trainer --------------------------------------------------------------------------------


def ants(root: Path, seed: int) -> ImageData:
    """Two classes, 244 photos: 7 batches an epoch."""
    return ImageData.from_folder(root / "ants_bees", size=64, batch_size=32, num_workers=0, seed=seed)


def satellite(root: Path, seed: int) -> ImageData:
    """21 classes of land use."""
    return ImageData.from_csv(
        root / "satellite",
        label_col="landuse",
        valid_col="is_valid",
        folder="images",
        size=64,
        batch_size=32,
        num_workers=0,
        seed=seed,
        augment="satellite",
    )


def camvid(root: Path, seed: int) -> ImageData:
    """Street scenes with a class for every pixel."""
    folder, size = root / "camvid", (96, 128)
    return ImageData.from_folder(
        folder,
        valid="val",
        masks="masks",
        codes=folder / "codes.txt",
        size=size,
        batch_size=4,
        num_workers=0,
        seed=seed,
    )


def lite0(classes: int) -> pl.LightningModule:
    """With the weights that are installed with the package."""
    return ImageClassifier("tf_efficientnet_lite0", num_classes=classes)


def unet(classes: int) -> pl.LightningModule:
    """A U-Net on the same encoder."""
    return UNetSegmenter("unet", num_classes=classes, ignore_index=classes - 1)


def random_net(name: str) -> Callable[[int], pl.LightningModule]:
    """A small network of timm without pretrained weights."""
    return lambda classes: ImageClassifier(name, num_classes=classes, weights=False)


SETTINGS: dict[str, tuple[Callable[[Path, int], ImageData], Callable[[int], pl.LightningModule]]] = {
    "ants/lite0": (ants, lite0),
    "ants/test_resnet": (ants, random_net("test_resnet")),
    "satellite/lite0": (satellite, lite0),
    "satellite/test_efficientnet": (satellite, random_net("test_efficientnet")),
    "camvid/unet": (camvid, unet),
}


def trainer(epochs: int, callbacks: list[pl.Callback], folder: str, **options: Any) -> pl.Trainer:
    """Silent, on the CPU, with short epochs."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"limit_train_batches": 12, **quiet, **options},
    )


# -- record ------------------------------------------------------------------------------------------------------------


def record(root: Path, settings: list[str], seeds: int) -> None:
    """Test with every setting and seed, and keep the losses."""
    kept = load() if CURVES.exists() else []
    for setting in settings:
        kept = [curve for curve in kept if curve["setting"] != setting]
        for seed in range(seeds):
            kept += record_one(root, setting, seed)
            save(kept)
            print(setting, "seed", seed, "recorded")


def record_one(root: Path, setting: str, seed: int) -> list[Record]:
    """The curves before the head phase and before the unfrozen one."""
    make_data, make_model = SETTINGS[setting]
    pl.seed_everything(seed, verbose=False)
    data, finder = make_data(root, seed), LRRangeTest(at_epochs=(0, UNFREEZE), apply=False)
    phases = GradualUnfreezing({0: "head", UNFREEZE: "all"}, lr_ratio=None)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(UNFREEZE + 1, [phases, finder], folder, limit_val_batches=0)
        run.fit(make_model(data.num_classes), datamodule=data)
    names = {0: "head", UNFREEZE: "unfrozen"}
    return [
        {"setting": setting, "kind": names[epoch], "seed": seed, "hand": None, "losses": curve.losses}
        for epoch, curve in finder.results.items()
    ]


def load() -> list[Record]:
    """The recorded curves."""
    curves: list[Record] = json.loads(CURVES.read_text())
    return curves


def save(curves: list[Record]) -> None:
    """One curve a line, losses with four significant digits."""
    rows = [{**curve, "losses": [float(f"{loss:.4g}") for loss in curve["losses"]]} for curve in curves]
    CURVES.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


# -- evaluate ----------------------------------------------------------------------------------------------------------


def evaluate() -> None:
    """Print where each rule points on the same curves, and draw one curve of each setting."""
    settings: dict[str, list[Record]] = defaultdict(list)
    for row in load():
        settings[f"{row['setting']} {row['kind']}"].append(row)
    print("rate (geometric mean) ± spread over seeds (std of log10), x ratio to a tenth of the hand reading")
    near = total = 0
    for name, rows in settings.items():
        found = [suggestions(row) for row in rows]
        print(f"\n{name}: {len(rows)} curves")
        for rule in NAMES:
            print(line(rule, [values.get(rule) for values in found], [row["hand"] / 10 for row in rows]))
        pairs = [(values.get("elbow"), row["hand"] / 10) for values, row in zip(found, rows, strict=True)]
        near += sum(value is not None and hand / 3 <= value <= 3 * hand for value, hand in pairs)
        total += len(rows)
    print(f"\nelbow within a factor of 3 of the hand reading: {near} of {total} curves")
    count_choices(load())
    compare_fastai(load())
    draw({name: rows[0] for name, rows in settings.items()})


def curve_of(row: Record) -> Curve:
    """The test as the engine records it."""
    losses = iter(row["losses"])
    return record_curve(lambda _: next(losses), RATES[: len(row["losses"])], stop_div=None)


def suggestions(row: Record) -> dict[str, float]:
    """Every rule's answer."""
    curve = curve_of(row)
    lent = lightning(curve)
    return suggest(curve, len(RATES)) | ({} if lent is None else {"lightning": lent})


def lightning(curve: Curve) -> float | None:
    """What Lightning's finder would say: its smoothing and stop, then its own code."""
    average, best = 0.0, 0.0
    smoothed: list[float] = []
    for step, loss in enumerate(curve.losses, start=1):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98 ** (step + 1)))
        if step > 1 and smoothed[-1] > 4 * best:
            break
        best = smoothed[-1] if step == 1 else min(best, smoothed[-1])
    finder = _LRFinder("exponential", RATES[0], 10.0, len(RATES))
    finder.results = {"lr": curve.lrs[: len(smoothed)], "loss": smoothed}
    return finder.suggestion()


def line(rule: str, values: list[float | None], hands: list[float]) -> str:
    """One rule in one setting."""
    pairs = [(np.log10(value), np.log10(hand)) for value, hand in zip(values, hands, strict=True) if value is not None]
    if not pairs:
        return f"  {rule:10} none"
    rates, read = np.array(pairs).T
    missing = f"   ({len(values) - len(pairs)} without)" if len(pairs) < len(values) else ""
    return f"  {rule:10} {10 ** rates.mean():.1e} ± {rates.std():.2f}  x {10 ** (rates - read).mean():.2g}{missing}"


def count_choices(rows: list[Record]) -> None:
    """How often ``FineTune`` would take what the curve suggests, with the lessons' 3e-4 for unfrozen layers."""
    for kind, lr, rule in (("head", "find", "the curve allows"), ("unfrozen", ("find", 3e-4), "a tenth of the elbow")):
        curves = [replace(curve_of(row), suggestions=suggestions(row)) for row in rows if row["kind"] == kind]
        taken = sum(rule in choose(lr, curve, kind == "unfrozen").reason for curve in curves)  # type: ignore[arg-type]
        print(f"{kind}: {rule} is taken on {taken} of {len(curves)} curves, else a fallback")


def compare_fastai(rows: list[Record]) -> None:
    """How far its own code is from ours on the same curves, where fastai is installed."""
    try:
        from fastai.callback import schedule
    except ImportError as error:
        print(f"fastai is left out: {error}")
        return
    worst = 0.0
    for row in rows:
        curve = curve_of(row)
        lrs, losses = (torch.tensor(values[len(RATES) // 10 : -5]) for values in (curve.lrs, curve.smoothed))
        for name, ours in suggest(curve, len(RATES)).items():
            if name != "elbow":
                worst = max(worst, abs(float(getattr(schedule, name)(lrs, losses, len(lrs))[0]) / ours - 1))
    print(f"largest relative difference to fastai's own steep, valley, slide and minimum: {worst:.1e}")


def draw(rows: dict[str, Record]) -> None:
    """A grid of the first seed's curves."""
    figure = Figure(figsize=(13, 2.6 * -(-len(rows) // 2)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(rows) // 2), 2)).ravel()
    for panel, (name, row) in zip(panels, rows.items(), strict=False):
        draw_panel(panel, name, row)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(PICTURE, dpi=80)
    Image.open(PICTURE).convert("RGB").quantize(32).save(PICTURE, optimize=True)  # a third of the bytes


def draw_panel(panel: Axes, name: str, row: Record) -> None:
    """Losses, their running mean, the hand reading, and what the rules say."""
    curve, found = curve_of(row), suggestions(row)
    start, low = float(np.median(curve.losses[:20])), min(curve.losses)
    panel.plot(curve.lrs, curve.losses, ".", color="#999999", markersize=4, label="loss of a step")
    panel.plot(curve.lrs, curve.smoothed, color="#4477aa", linewidth=1.5, label="running mean")
    panel.axvline(row["hand"], color="black", linestyle="--", linewidth=1.2, zorder=3, label="read by hand")
    for rule, colour, factor in (("elbow", "#ee7733", 10), ("steep", "#cc3311", 1), ("lightning", "#aa3377", 1)):
        label = f"{rule}, before the division by 10" if factor > 1 else rule
        panel.axvline(found.get(rule, np.nan) * factor, color=colour, linewidth=1.5, label=label)
    panel.set(xscale="log", xlim=(RATES[0], RATES[-1]), ylim=(low - 0.1 * start, 1.7 * start))
    panel.set_title(f"{name}, seed {row['seed']}: loss over the learning rate", fontsize="medium")
    panel.set_ylabel("training loss")
    panel.grid(alpha=0.2)


# -- train -------------------------------------------------------------------------------------------------------------

EPOCHS = 2
TRAINED = ("steep", "valley", "minimum")
GIVEN: dict[str, Slice] = {"head": 3e-3, "all": (3e-6, 3e-4)}
"""The lessons' rates without any range test."""


def train(root: Path, setting: str, seeds: int) -> None:
    """Train a head, then everything, with what each rule suggests; print the validation loss and error."""
    results: list[Result] = []
    for seed in range(seeds):
        heads = contest(root, setting, seed, "head", None)
        results += heads + contest(root, setting, seed, "all", heads[0].weights)
    rows: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        rows[result.kind, result.rule].append(result)
    for (kind, rule), cells in rows.items():
        losses, errors = [cell.loss for cell in cells], [cell.error for cell in cells]
        scores = f"loss {np.mean(losses):.3f} (at most {max(losses):.3f})  error {np.mean(errors):.1%}"
        print(f"{kind:4} {rule:15} {scores}  rates {', '.join(show(cell.lr) for cell in cells)}", flush=True)


@dataclass(frozen=True)
class Result:
    """Scores and weights after a phase."""

    kind: str
    rule: str
    lr: Slice
    loss: float
    error: float
    weights: dict[str, torch.Tensor]


def contest(root: Path, setting: str, seed: int, kind: Literal["head", "all"], before: Weights) -> list[Result]:
    """One phase from the weights ``before``, once with each rule; the lessons' own rates first."""
    given = Phase(EPOCHS, kind, GIVEN[kind])
    results = [fit(root, setting, seed, "given", given, before)[0]]
    ours, found = fit(
        root, setting, seed, "ours", replace(given, lr="find" if kind == "head" else ("find", 3e-4)), before
    )
    rates = {"lightning": lightning(found.curve), **{rule: found.curve.suggestions.get(rule) for rule in TRAINED}}
    rates |= {"the head's": 3e-3} if kind == "all" else {}
    results.append(ours)
    for rule, lr in rates.items():
        same = [result for result in results if result.lr == lr]
        if same:
            results.append(replace(same[0], rule=rule))
        elif lr is not None:
            results.append(fit(root, setting, seed, rule, replace(given, lr=lr), before)[0])
    return results


def fit(root: Path, setting: str, seed: int, rule: str, phase: Phase, before: Weights) -> tuple[Result, Any]:
    """One phase; what its range test found, where it had one."""
    pl.seed_everything(seed, verbose=False)
    make_data, make_model = SETTINGS[setting]
    data, recipe = make_data(root, seed), FineTune(phases=[phase])
    module = make_model(data.num_classes)
    if before is not None:
        module.load_state_dict(before)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        run = trainer(EPOCHS, [recipe], folder, check_val_every_n_epoch=EPOCHS)
        run.fit(module, datamodule=data)
    found = recipe.found.get(0)
    loss, error = (float(run.callback_metrics[name]) for name in ("val_loss", "val_error_rate"))
    lr = phase.lr if found is None else found.lr
    result = Result(str(phase.train), rule, lr, loss, error, module.state_dict())  # type: ignore[arg-type]
    reason = "" if found is None else f" ({found.reason})"
    print(f"seed {seed} {phase.train} {rule} {show(result.lr)}: loss {loss:.3f} error {error:.1%}{reason}", flush=True)
    return result, found


def show(lr: Slice) -> str:
    """A rate, or the two ends of a slice."""
    return f"{lr:.1e}" if isinstance(lr, float) else f"{lr[0]:.1e} to {lr[1]:.1e}"


# -- find --------------------------------------------------------------------------------------------------------------

FOUND = HERE / "range_find.jsonl"
"""Rows of ``find``, each added as soon as it is there."""


def find(root: Path, sets: list[str], folds: int) -> None:
    """The measured recipe with and without ``find=True``: 200 images, 64 pixels, six epochs, held-out error.

    The range test leaves no trace, so a run for which it keeps the rule's rates is the rule's run, and is made once.
    """
    for fold in range(folds):
        for name in sets:
            found = learn(root, name, fold, FineTune(epochs=6, find=True))
            low, high = found["lr"]
            kept = bool(np.isclose(high, RULE["high"]))
            rule = found if kept else learn(root, name, fold, FineTune(epochs=6))
            row = {"set": name, "fold": fold, **found, "low": low, "high": high, "kept": kept, "rule": rule["error"]}
            del row["lr"]
            with FOUND.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def learn(root: Path, name: str, fold: int, recipe: FineTune) -> dict[str, Any]:
    """One run: its held-out error, and what its range test saw and chose."""
    pl.seed_everything(fold, verbose=False)
    frame = split(root, name, 200, fold)
    options: dict[str, Any] = {"size": 64, "batch_size": 32, "num_workers": 0, "seed": fold}
    augment: Any = {"satellite": "satellite", "digits": "none"}.get(name, "photo")
    data = ImageData.from_df(frame, "/", valid_col="is_valid", augment=augment, **options)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        run = trainer(-1, [recipe], folder, limit_train_batches=1.0, check_val_every_n_epoch=recipe.epochs)
        run.fit(ImageClassifier(num_classes=data.num_classes), datamodule=data)
    error, held_out = float(run.callback_metrics["val_error_rate"]), int(frame["is_valid"].sum())
    found = recipe.found.get(0)
    if found is None:
        return {"error": error, "held_out": held_out}
    elbow = found.curve.suggestions.get("elbow")
    seen = {"lr": found.lr, "reason": found.reason, "elbow": elbow, "losses": found.curve.losses}
    return {"error": error, "held_out": held_out, **seen}


# -- cost --------------------------------------------------------------------------------------------------------------

STEPS = 100


class Clock(pl.Callback):
    """Seconds from the start of training to its end."""

    seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self.seconds -= time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self.seconds += time.perf_counter()


def cost(root: Path, setting: str, seeds: int) -> None:
    """Print how much longer training takes with a range test of as many steps, as a multiple of the training."""
    for train in ("head", "all"):
        pairs = [
            (timed(root, setting, seed, train, False), timed(root, setting, seed, train, True)) for seed in range(seeds)
        ]
        ratios = sorted((with_test - alone) / alone for alone, with_test in pairs)
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{setting} {train}: {STEPS} steps of the range test take {shown} times {STEPS} training steps", flush=True
        )


def timed(root: Path, setting: str, seed: int, train: Literal["head", "all"], with_test: bool) -> float:
    """Seconds of a hundred training steps, with or without a range test that does not diverge."""
    pl.seed_everything(seed, verbose=False)
    make_data, make_model = SETTINGS[setting]
    data, clock = make_data(root, seed), Clock()
    finder = LRRangeTest(end_lr=1e-4, num_steps=STEPS, apply=False)
    callbacks = [clock, GradualUnfreezing({0: train}, lr_ratio=None), *([finder] if with_test else [])]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        run = trainer(-1, callbacks, folder, max_steps=STEPS, limit_train_batches=1.0, limit_val_batches=0)
        run.fit(make_model(data.num_classes), datamodule=data)
    assert all(len(curve.lrs) == STEPS for curve in finder.results.values())
    return clock.seconds


if __name__ == "__main__":
    main()
