"""Sweeps without a server, of real trials."""

from pathlib import Path

import pytest
import yaml

from lightning_finetune.cli.sweep import command, draw, measured, sweep
from lightning_finetune.cli.sweep_file import read_sweep
from lightning_finetune.errors import FinetuneError
from tests.cli.launching import QUIET, SMALL, rows

optuna = pytest.importorskip("optuna")


def write(path: Path, photos: Path, **changes) -> str:
    words = ["fit", "--data.root", str(photos), *SMALL, *QUIET, "--fine_tune.head_epochs", "1"]
    space = {
        "program": "lightning_finetune",
        "method": "random",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "parameters": {"fine_tune.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}},
        "command": ["${env}", "${interpreter}", "-m", "${program}", *words, "--fine_tune.full_epochs", "1", "${args}"],
        **changes,
    }
    path.write_text(yaml.safe_dump(space))
    return str(path)


@pytest.mark.slow
def test_a_grid_is_made_once_each_and_continued(photos, tmp_path, capsys):
    """The rate below 0 is refused by the phases, so that its trial fails and the others go on."""
    choices = {"fine_tune.lr": {"values": [0.001, -1.0, 0.01]}, "fine_tune.train_norm": {"value": True}}
    file = write(tmp_path / "lr.yaml", photos, method="grid", parameters=choices)
    sweep(file, trials=2, out=str(tmp_path / "out"))
    sweep(file, trials=5, out=str(tmp_path / "out"))
    found = rows(tmp_path / "out/lr/trials.csv")
    complete = {row["params_fine_tune.lr"]: float(row["value"]) for row in found if row["state"] == "COMPLETE"}
    assert set(complete) == {"0.001", "0.01"}
    failed = [row["number"] for row in found if row["state"] == "FAIL"]
    assert {row["params_fine_tune.lr"] for row in found if row["state"] == "FAIL"} == {"-1.0"}
    assert "learning rates to be positive" in (tmp_path / f"out/lr/trial_{failed[0]}/log.txt").read_text()
    for row in found:
        place = tmp_path / "out/lr" / f"trial_{row['number']}"
        if row["state"] == "COMPLETE":
            assert min(measured(place, "val_loss")) == pytest.approx(float(row["value"]))
            assert list(place.rglob("best.ckpt"))
    assert "Best by val_loss" in capsys.readouterr().out


def test_the_words_are_those_of_the_file_with_the_values_last(tmp_path):
    space = {
        "program": "lightning_finetune",
        "command": ["${env}", "${interpreter}", "-m", "${program}", "fit", "${args}"],
    }
    words = command(space, {"a.b": 0.1, "c": None, "d": [1, 2]}, tmp_path)
    assert words[1:7] == ["-m", "lightning_finetune", "fit", "--a.b=0.1", "--c=None", "--d=[1, 2]"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "annealing"}, r"`method` to be one of .*'bayes'.*got 'annealing'"),
        (
            {"parameters": {"x": {"distribution": "log_uniform_value", "min": 1, "max": 2}}},
            "Did you mean 'log_uniform_v",
        ),
        ({"parameters": {"x": 3}}, "expected `x` to have one of"),
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1.0}}}, r"one of \['values', 'value'\]"),
        ({"metric": {"name": "a", "goal": "minimise"}}, "got 'minimise'"),
        ({"metric": "val_loss"}, "with `metric`, a mapping"),
        ({"metric": {"goal": "minimize"}}, "`metric` to have a name"),
        ({"parameters": ["x"]}, "with `parameters`, a mapping"),
        ({"command": "python train.py"}, "with `command`, a list"),
        ({"parameters": {"x": {"values": 3}}}, "`values` of `x` to be a list, got 3"),
        ({"parameters": {"x": {"min": "low", "max": 1}}}, "`min` and `max` of `x` to be numbers"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "min <= max"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 0.0}}}, "`min` and `max` of `x` to be numbers"),
        ({"parameters": {"x": {"distribution": "int_uniform", "min": 0.5, "max": 2}}}, "to be whole numbers"),
        ({"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "above 0 for log_uniform"),
    ],
)
def test_what_cannot_be_done_is_named(tmp_path, changes, message):
    with pytest.raises(FinetuneError, match=message):
        read_sweep(Path(write(tmp_path / "s.yaml", tmp_path, **changes)))


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    path = Path(write(tmp_path / "s.yaml", tmp_path))
    path.write_text(path.read_text().replace("min: 0.0001", "min: 1e-4").replace("max: 0.01", "max: 1e-2"))
    assert "1e-4" in path.read_text()
    trial = optuna.create_study().ask()
    assert 1e-4 <= draw(trial, read_sweep(path))["fine_tune.lr"] <= 1e-2
    space = {"parameters": {"x": {"min": 1, "max": 3}}}
    assert isinstance(draw(trial, read_sweep(Path(write(tmp_path / "s.yaml", tmp_path, **space))))["x"], int)


def test_a_file_that_is_no_sweep(tmp_path):
    (tmp_path / "s.yaml").write_text("model: x")
    with pytest.raises(FinetuneError, match="expected a sweep file with `method`"):
        read_sweep(tmp_path / "s.yaml")
    with pytest.raises(FinetuneError, match="nowhere"):
        read_sweep(tmp_path / "nowhere.yaml")
