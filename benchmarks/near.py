"""When is a solved head better alone, and can it be told before training? Small tasks, at two levels of the rates.

    python benchmarks/near.py run DATA [--folds 2]
    python benchmarks/near.py table

DATA as in ``recipes.py``. Each task is two classes of a set, or a whole set (``ants_bees`` also at twice the size); 200
images train, or as many as leave half to judge. Each run is eight epochs of the recipe with its rates times one of
``SHARES``, in the loop of ``screen.py``, with a head over the last features, and is added to ``near.jsonl`` at once. A
row has what could be known before training (the head's loss by cross-validation, in bits an image; how far the
gradients of unseen images agree) and the losses and errors of held-out images before and after it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recipes_sets import SOURCES, read  # beside this file
from screen import RULE, batches, solve, train  # likewise
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_finetune import ImageClassifier, ImageData
from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.linear_probe import solve_head

RESULTS = Path(__file__).with_suffix(".jsonl")
FOLDS = 5
SHARES = (1.0, 0.1)
MOST_HELD_OUT = 400
PAIRS = ("digits", "satellite", "fashion", "cifar", "trash", "textures", "emoji")
WHOLE = ("ants_bees", "ants_bees@2", "satellite", "digits", "textures", "trash")
TASKS = [*WHOLE, *(f"{name}:{pair}" for name in PAIRS for pair in range(2)), "digits:parity"]


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--folds", type=int, default=2)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        print(table(rows()))
        return
    torch.set_num_threads(1)
    done = {(row["task"], row["fold"], row["share"]) for row in rows()}
    for fold in range(options.folds):
        for share in SHARES:
            for task in TASKS:
                if (task, fold, share) not in done:
                    row = {"task": task, "fold": fold, "share": share, **measure(options.data, task, fold, share)}
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row, flush=True)


def rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """Means over folds, of all that is known of a task."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        by_task[row["task"]].append(row)
    lines = ["| task | folds | bits | agreement | head | full rates | a tenth |", "|" + "---|" * 7]
    for task, all_rows in by_task.items():
        full = [row for row in all_rows if row["share"] == 1]
        errors = [[row["error"] for row in all_rows if row["share"] == share] for share in SHARES]
        known = [statistics.mean(row[name] for row in full) for name in ("bits", "agreement")]
        values = [
            statistics.mean(row["head_error"] for row in full),
            *(statistics.mean(one or [math.nan]) for one in errors),
        ]
        cells = [task, str(len(full)), *(f"{value:.2f}" for value in known), *(f"{value:.3f}" for value in values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(root: Path, task: str, fold: int, share: float) -> dict[str, Any]:
    """One run."""
    base = task.partition(":")[0].partition("@")[0]
    frame = images_of(root, task, fold)
    torch.manual_seed(fold)
    data = ImageData.from_df(
        frame,
        "/",
        valid_col="is_valid",
        size=int(SOURCES[base].size) * (2 if "@2" in task else 1),
        batch_size=32,
        num_workers=0,
        augment={"satellite": "satellite", "digits": "none"}.get(base, "photo"),  # type: ignore[typeddict-item]
        seed=fold,
    )
    module = ImageClassifier(num_classes=data.num_classes, head="linear")
    data.stats = module.normalization
    held_out = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    how = {**RULE, "epochs": 8, "low": RULE["low"] * share, "high": RULE["high"] * share}
    solve(module, data, data.train_dataloader(), how)
    before = {**known(module, data), **judged(module, held_out, "head_")}
    train(module, data, how)
    return {**before, **judged(module, held_out, ""), "images": int((~frame["is_valid"]).sum())}


def images_of(root: Path, task: str, fold: int) -> pd.DataFrame:
    """Files with labels, those that judge first; each class has its share in both parts."""
    name, _, pair = task.partition(":")
    files, labels, _ = read(root, name.partition("@")[0])
    if pair == "parity":
        labels = ["odd" if int(label) % 2 else "even" for label in labels]
    elif pair:
        chosen = [label for label, _ in Counter(labels).most_common()][2 * int(pair) :][:2]
        files, labels = zip(*(one for one in zip(files, labels, strict=True) if one[1] in chosen), strict=True)
    frame = pd.DataFrame({"name": [str(file.resolve()) for file in files], "label": labels})
    frame = frame.iloc[np.random.default_rng(1000 + fold).permutation(len(frame))]
    rank = frame.groupby("label").cumcount() / frame.groupby("label")["name"].transform("size")
    frame = frame.iloc[np.argsort(rank.to_numpy(), kind="stable")]
    held_out = min(MOST_HELD_OUT, len(frame) // 2)
    frame = frame.iloc[: held_out + 200].copy()
    frame["is_valid"] = np.arange(len(frame)) < held_out
    return frame


def known(module: Any, data: Any) -> dict[str, float]:
    """What is known before training."""
    parts = list(batches(data, data.train_dataloader().one_pass(), 0))
    module.eval()
    with torch.no_grad():
        pairs = [module.head_inputs(batch) for batch in parts]
    features, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
    fold = torch.arange(len(features)) % FOLDS
    heads = [
        solve_head(features[fold != k], targets[fold != k], nn.CrossEntropyLoss(), data.num_classes)
        for k in range(FOLDS)
    ]
    loss = cross_entropy(unseen(heads, features, fold), targets)
    return {"bits": float(loss) / math.log(2), "agreement": agreement(module, parts, heads)}


def unseen(heads: list[tuple[Tensor, Tensor]], features: Tensor, fold: Tensor) -> Tensor:
    """Logits of each image by the head that was solved without its fold."""
    by_head = torch.stack([features @ weight.T + bias for weight, bias in heads])
    return by_head[fold, torch.arange(len(features))]


def agreement(module: Any, parts: list[Any], heads: list[tuple[Tensor, Tensor]]) -> float:
    """Signal over noise in the gradient of the layers below the head, each image with a head that has not seen it.

    The highest over the later half of the layer groups. Both are estimated from the gradients of batches (McCandlish et
    al. 2018, https://arxiv.org/abs/1812.06162).
    """
    groups = [list(group.params) for group in layer_groups(module)[:-1]]
    groups = groups[len(groups) // 2 :]
    totals = [torch.zeros(sum(param.numel() for param in group)) for group in groups]
    squares, sizes = [0.0] * len(groups), []
    for batch in parts:
        features, labels = module.head_inputs(batch)
        fold = (sum(sizes) + torch.arange(len(labels))) % FOLDS
        loss = cross_entropy(unseen(heads, features, fold), labels, reduction="sum")
        sizes.append(len(labels))
        for place, group in enumerate(groups):
            parts_of_it = torch.autograd.grad(loss, group, retain_graph=place < len(groups) - 1)
            gradient = torch.cat([part.flatten() for part in parts_of_it])
            totals[place] += gradient
            squares[place] += float(gradient.square().sum())
    return max(ratio(float(total.square().sum()), square, sizes) for total, square in zip(totals, squares, strict=True))


def ratio(of_all: float, of_batches: float, sizes: list[int]) -> float:
    """Signal over noise in a mean gradient, from the squared norms of the sums over all images and over batches."""
    images, pairs = sum(sizes), sum(size**2 for size in sizes)
    signal = (of_all - of_batches) / (images**2 - pairs)
    noise = (of_batches - pairs * signal) / images
    return images * signal / noise


@torch.no_grad()
def judged(module: Any, held_out: list[Any], prefix: str) -> dict[str, float]:
    """Loss and error of the held-out images."""
    module.eval()
    logits = torch.cat([module(batch["image"]) for batch in held_out])
    labels = torch.cat([batch["label"] for batch in held_out])
    error = (logits.argmax(1) != labels).float().mean()
    return {f"{prefix}loss": float(cross_entropy(logits, labels)), f"{prefix}error": float(error)}


if __name__ == "__main__":
    main()
