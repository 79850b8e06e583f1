"""A sweep on this machine alone: the same file as for Weights & Biases, searched by Optuna, without a server."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich

from lightning_finetune.cli.sweep_file import kind_of, read_sweep
from lightning_finetune.errors import FinetuneError
from lightning_finetune.show.terminal import show_table

if TYPE_CHECKING:
    import optuna

POLL = 0.5
"""Seconds between two looks at what a trial has measured."""


def sweep(file: str, trials: int = 10, out: str = "sweeps") -> None:
    """Run trials of a sweep file one after the other, and print the best; start it again to go on.

    The file is the one that ``wandb sweep`` takes. Trials lie in ``OUT/NAME/trial_N`` with their checkpoints, all
    results in ``OUT/NAME/trials.csv``. The same command in several terminals makes several trials at once.

    Args:
        file: The sweep, a YAML file.
        trials: How many to make now.
        out: Folder of the results.

    Raises:
        FinetuneError: A file that says something that cannot be done here.
    """
    space = read_sweep(Path(file))
    folder = Path(out, Path(file).stem)
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(space, folder)
    study.optimize(lambda trial: run_trial(trial, space, folder), trials, catch=TrialError)
    frame = study.trials_dataframe(attrs=("number", "value", "params", "state", "duration"))
    frame.to_csv(folder / "trials.csv", index=False)
    done = frame[frame["state"] == "COMPLETE"].sort_values("value", ascending=space["metric"]["goal"] != "maximize")
    show_table(f"Best by {space['metric']['name']}", done.drop(columns=["state", "duration"]).head())
    rich.get_console().print(
        f"{len(done)} of {len(frame)} trials ended by themselves; all are in {folder / 'trials.csv'}"
    )


class TrialError(RuntimeError):
    """A trial whose process failed, or that measured nothing; the sweep goes on."""


# How Optuna draws each; choices go by their text, as they may be lists.
_DISTRIBUTIONS: dict[str, Callable[[Any, str, Mapping[str, Any]], Any]] = {
    "values": lambda trial, name, spec: _choose(trial, name, spec["values"]),
    "value": lambda trial, name, spec: spec["value"],
    "uniform": lambda trial, name, spec: trial.suggest_float(name, spec["min"], spec["max"]),
    "q_uniform": lambda trial, name, spec: trial.suggest_float(name, spec["min"], spec["max"], step=spec.get("q", 1)),
    "int_uniform": lambda trial, name, spec: trial.suggest_int(name, spec["min"], spec["max"]),
    "log_uniform_values": lambda trial, name, spec: trial.suggest_float(name, spec["min"], spec["max"], log=True),
}


def _choose(trial: Any, name: str, values: list[Any]) -> Any:
    by_text = {str(value): value for value in values}
    return by_text[trial.suggest_categorical(name, list(by_text))]


def _study(space: Mapping[str, Any], folder: Path) -> optuna.Study:
    """The study of a folder, begun or continued; processes share it through a file."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise FinetuneError("A local sweep needs Optuna: pip install 'lightning-finetune[sweep]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    listed = {name: [*map(str, spec["values"])] for name, spec in space["parameters"].items() if "values" in spec}
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "grid": lambda: optuna.samplers.GridSampler(listed),
        "random": optuna.samplers.RandomSampler,
        "bayes": optuna.samplers.TPESampler,
    }
    early = space.get("early_terminate")
    pruner = optuna.pruners.HyperbandPruner(early.get("min_iter", 1)) if early else optuna.pruners.NopPruner()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    direction = space["metric"]["goal"]
    sampler = samplers[space["method"]]()
    return optuna.create_study(
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=folder.name,
        direction=direction,
        load_if_exists=True,
    )


def run_trial(trial: Any, space: Mapping[str, Any], folder: Path) -> float:
    """Run one trial in a process of its own, and give what it measured at its best.

    Raises:
        TrialError: Its process failed; the message names its log.
        optuna.TrialPruned: It was given up, as others were better at its age.
    """
    import optuna

    place = folder / f"trial_{trial.number}"
    place.mkdir(exist_ok=True)
    metric, better = space["metric"]["name"], min if space["metric"]["goal"] == "minimize" else max
    with (place / "log.txt").open("wb") as log:
        words = command(space, draw(trial, space), place)
        process = subprocess.Popen(words, stdout=log, stderr=log)  # noqa: S603  # the user's own file says it
        pruned = _follow(trial, process, place, metric)
    values = measured(place, metric)
    if pruned:
        raise optuna.TrialPruned
    if process.returncode or not values:
        why = f"ended with {process.returncode}" if process.returncode else f"measured no {metric!r}"
        text = (place / "log.txt").read_text(errors="replace").strip()
        last = text.splitlines()[-1] if text else "it said nothing"
        rich.get_console().print(f"Trial {trial.number} {why}: {last} (see {place / 'log.txt'})", markup=False)
        raise TrialError(f"trial {trial.number} {why}")
    best = better(values)
    rich.get_console().print(f"Trial {trial.number}: {metric} {best:.4f} with {trial.params}", markup=False)
    return float(best)


def draw(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each parameter."""
    return {name: _DISTRIBUTIONS[kind_of(spec)](trial, name, spec) for name, spec in space["parameters"].items()}


def command(space: Mapping[str, Any], values: Mapping[str, Any], place: Path) -> list[str]:
    """What starts a trial: the file's own command, but logged to a table in the trial's folder."""
    macros = {"${env}": [], "${interpreter}": [sys.executable], "${program}": [str(space.get("program", ""))]}
    macros["${args}"] = [f"--{name}={value}" for name, value in values.items()]
    words = [word for part in space["command"] for word in macros.get(part, [part])]
    logger = {"save_dir": place, "name": "", "version": "run", "flush_logs_every_n_steps": 1}
    given = [f"--trainer.logger.init_args.{name}={value}" for name, value in logger.items()]
    return [*words, "--trainer.logger=lightning_finetune.cli.loggers.RunLogger", *given]


def _follow(trial: Any, process: subprocess.Popen[bytes], place: Path, metric: str) -> bool:
    """Wait for a trial, and end it where the pruner would; whether it did."""
    told = 0
    try:
        while process.poll() is None:
            time.sleep(POLL)
            values = measured(place, metric)
            for value in values[told:]:
                told += 1
                trial.report(value, told)
            if values and trial.should_prune():
                process.terminate()
                process.wait()
                return True
    except BaseException:
        process.terminate()  # Ctrl-C ends the trial too, which saves a checkpoint
        process.wait()
        raise
    return False


def measured(place: Path, metric: str) -> list[float]:
    """All values of a metric that a trial has logged so far."""
    files = sorted(place.rglob("metrics.csv"))
    if not files:
        return []
    with files[-1].open() as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
