"""The sweep files, expanded by the code that a W&B agent expands them with."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_finetune import cli
from tests.callbacks.test_loggers import read_history
from tests.test_cli import QUIET, photos  # noqa: F401  # a fixture

SWEEPS = sorted((Path(__file__).parents[1] / "examples/sweeps").glob("*.yaml"))
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
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path) -> Path:  # noqa: F811
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
            cli.run([*agent_words(sweep, trial), "--print_config"])
        assert done.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        for name, chosen in trial.items():
            found = config
            for part in name.split("."):
                found = found[part]
            assert found == yaml.safe_load(str(chosen["value"])), name


@pytest.mark.slow
def test_a_trial_runs_as_the_agent_starts_it_and_leaves_the_metric(here: Path) -> None:
    sweep = yaml.safe_load((here / "bayes.yaml").read_text())
    trial = {**draws(sweep, 1)[0], "fine_tune.full_epochs": {"value": 1}}
    words = [*agent_words(sweep, trial), *QUIET, "--data.size=32", "--data.num_workers=0", "--model.weights=false"]
    # wandb leaves variables of its own in the environment of a process that has used it, as other tests here have.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env = {**clean, "WANDB_MODE": "offline", "WANDB_RUN_ID": "trial1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", sweep["program"], *words], env=env, check=True, timeout=300)
    history = read_history(next(here.glob("wandb/offline-run-*/*.wandb")))
    assert len(history[sweep["metric"]["name"]]) == 3
    assert (here / "my-fine-tuning/trial1/config.yaml").is_file()
    shutil.rmtree(here / "wandb")
