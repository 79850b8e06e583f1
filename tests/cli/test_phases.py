"""What a phase can say, said by the command: a schedule from outside the package, and an end by itself."""

import os
from pathlib import Path

import pytest

from lightning_finetune.cli import sweep
from tests import forking
from tests.cli.launching import PROGRAM, QUIET, SMALL, rows

PHASES = """[
  {epochs: 2, train: head, lr: 0.01, schedule: my_schedules.falling, weight_decay: 0.1},
  {epochs: 3, train: all, lr: 0.001, schedule: constant, until: val_loss, patience: 1, min_delta: 100,
   restore_best: true}
]"""


def test_a_schedule_by_dotted_name_and_a_phase_that_ends_by_itself(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my_schedules.py").write_text("def falling(progress):\n    return 1 - progress\n")
    words = ["--fine_tune.phases", PHASES, "--trainer.log_every_n_steps", "1"]
    done = forking.run(PROGRAM, "fit", "--data.root", photos, *SMALL, *QUIET, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "lightning_logs/version_0"
    assert [row["schedule"] for row in rows(run / "plan.csv")] == ["falling", "constant"]
    assert [row["weight decay"] for row in rows(run / "plan.csv")] == ["0.1", "as is"]
    lengths = [(row["planned epochs"], row["epochs"]) for row in rows(run / "phases.csv")]
    assert lengths == [("2", "2"), ("3", "2")]  # no validation improves by a hundred
    measured = [row for row in rows(run / "metrics.csv") if row.get("lr/head")]
    head = [float(row["lr/head"]) for row in measured if row["phase"] == "1.0"]
    assert head == pytest.approx([0.01 * (1 - step / len(head)) for step in range(len(head))])
    assert "my_schedules.falling" in (run / "config.yaml").read_text()


def test_a_sweep_gives_whole_lists_of_phases(photos: Path, tmp_path: Path) -> None:
    phases = [{"epochs": 20, "train": "all", "schedule": "flat_cos", "until": "val_loss", "cooldown": 2}]
    (word, *_) = sweep.command({"command": ["${args}"]}, {"fine_tune.phases": phases}, tmp_path)
    wide = {**os.environ, "COLUMNS": "200"}
    done = forking.run(PROGRAM, "plan", "--data.root", photos, *SMALL, *QUIET, word, cwd=tmp_path, env=wide)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "Phase 1 may end before its 20 epochs: when val_loss has not improved for 3 validations" in said
    assert "and a fall over 2 epochs" in said
