"""The sweep files, expanded by the code that a W&B agent expands them with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from lightning_finetune.cli import command_line
from tests.cli.launching import QUIET, said_by
from tests.wandb_files import read_history, read_records

SWEEPS = sorted((Path(__file__).parents[2] / "examples/sweeps").glob("*.yaml"))
TRIALS = [path for path in SWEEPS if path.name != "base.yaml"]
utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")


def draws(sweep: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Parameters of ``count`` trials; together they hold every listed value."""
    draw = random.Random(0)
    trials = []
    for number in range(count):
        trial = {}
        for name, spec in sweep["parameters"].items():
            values = spec.get("values") or [draw.uniform(spec["min"], spec["max"])]
            trial[name] = {"value": values[number % len(values)]}
        trials.append(trial)
    return trials


def agent_words(sweep: dict[str, Any], trial: dict[str, Any]) -> list[str]:
    """What an agent starts after ``python -m lightning_finetune``."""
    args = utils.create_sweep_command_args({"args": trial})["args"]
    words = [word for part in sweep["command"] for word in (args if part == "${args}" else [part])]
    assert words[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    return words[4:]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path) -> Path:
    """A folder with the sweep files as a user edits them."""
    for path in SWEEPS:
        (tmp_path / path.name).write_text(path.read_text().replace("FOLDER", str(photos)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-finetune"])
    return tmp_path


@pytest.mark.parametrize("path", TRIALS, ids=lambda path: path.stem)
def test_every_value_of_every_parameter_is_understood(path: Path, here: Path, capsys) -> None:
    sweep = yaml.safe_load(path.read_text())
    for trial in draws(sweep, 4):
        with pytest.raises(SystemExit) as done:
            command_line.run([*agent_words(sweep, trial), "--print_config"])
        assert done.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        for name, chosen in trial.items():
            found = config
            for part in name.split("."):
                found = found[part]
            assert found == yaml.safe_load(str(chosen["value"])), name


SMALL_TRIAL = [*QUIET, "--data.size=32", "--data.num_workers=0", "--model.weights=false", "--data.batch_size=8"]


def start(here: Path, file: str, name: str, *extra: str, **changes: Any) -> subprocess.Popen[str]:
    """A trial in a process of its own, as the agent starts it."""
    sweep = yaml.safe_load((here / file).read_text())
    small = {
        "fine_tune.head_epochs": 1,
        "fine_tune.full_epochs": 1,
        "fine_tune.sizes": "null",
        "data.init_args.size": 32,
    }
    small["model.init_args.model"] = "test_efficientnet"
    trial = draws(sweep, 1)[0]
    trial |= {key: {"value": value} for key, value in {**small, **changes}.items() if key in trial or key in changes}
    short = [f"--{key}={value}" for key, value in small.items() if key not in trial and key.endswith("epochs")]
    # wandb leaves variables of its own in the environment of a process that has used it, as other tests here have.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    root = str(Path(__file__).parents[2])
    env = {**clean, "PYTHONPATH": root, "WANDB_MODE": "offline", "WANDB_RUN_ID": name, "OMP_NUM_THREADS": "1"}
    words = [*agent_words(sweep, trial), *SMALL_TRIAL, *short, *extra]
    return subprocess.Popen(
        [sys.executable, "-m", sweep["program"], *words],
        cwd=here,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Crash(Callback):
    """Fails in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            raise RuntimeError("out of luck")


def record_of(here: Path, name: str) -> tuple[dict[str, Any], int | None]:
    """The summary of a trial's run, and with what it ended, from its only file."""
    (file,) = here.glob(f"wandb/offline-run-*-{name}/*.wandb")
    summary: dict[str, Any] = {}
    ended = None
    for record in read_records(file):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.WhichOneof("record_type") == "exit":
            ended = record.exit.exit_code
    return summary, ended


@pytest.mark.slow
def test_trials_of_every_sweep_at_once_leave_their_metric(here: Path) -> None:
    trials = {path.stem: start(here, path.name, path.stem) for path in TRIALS}
    for path in TRIALS:
        said_by(trials[path.stem])
        metric = yaml.safe_load(path.read_text())["metric"]["name"]
        summary, ended = record_of(here, path.stem)
        assert summary[metric] >= 0
        assert summary[f"best/{metric}"] == min(value for _, value in history_of(here, path.stem)[metric])
        assert ended == 0
        assert (here / f"my-fine-tuning/{path.stem}/config.yaml").is_file()
        assert (here / f"my-fine-tuning/{path.stem}/checkpoints/best.ckpt").is_file()


def history_of(here: Path, name: str) -> dict[str, list[tuple[int, Any]]]:
    return read_history(next(here.glob(f"wandb/offline-run-*-{name}/*.wandb")))


@pytest.mark.slow
def test_two_processes_are_one_trial(here: Path) -> None:
    said_by(start(here, "bayes.yaml", "ddp", "--trainer.devices=2", "--trainer.strategy=ddp"))
    summary, ended = record_of(here, "ddp")  # there is one file
    assert ended == 0
    assert summary["val_loss"] > 0
    assert len(history_of(here, "ddp")["best/val_loss"]) == 2, "once an epoch"


@pytest.mark.slow
def test_a_trial_that_fails_says_why_and_is_marked(here: Path) -> None:
    trial = start(here, "bayes.yaml", "bad", "--trainer.callbacks+=tests.cli.test_sweep_files.Crash")
    said, _ = trial.communicate(timeout=300)
    assert trial.returncode != 0
    assert "out of luck" in said
    assert record_of(here, "bad")[1] != 0


@pytest.mark.slow
def test_a_trial_that_is_given_up_saves_and_closes_its_run(here: Path) -> None:
    trial = start(here, "bayes.yaml", "late", **{"fine_tune.full_epochs": 500})
    last = here / "my-fine-tuning/late/checkpoints/last.ckpt"
    for _ in range(600):
        if last.exists():
            break
        time.sleep(0.2)
    trial.send_signal(signal.SIGTERM)
    said, _ = trial.communicate(timeout=60)
    assert trial.returncode == 128 + signal.SIGTERM
    assert "To continue:\n  lightning-finetune fit --config" in said
    assert torch.load(last, weights_only=True)["global_step"] >= 3
    summary, ended = record_of(here, "late")
    assert summary["val_loss"] > 0
    assert ended is not None
