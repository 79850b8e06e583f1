"""A task that lies outside of the package, by the command alone."""

import csv
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests import forking

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "a-task-of-your-own.md"
CONFIG = """
model:
  class_path: grades.GradeClassifier
  init_args: {model: test_convnext, weights: false}
data: {root: %s, size: 32, num_workers: 0}
fine_tune: {epochs: 2}
trainer: {accelerator: cpu}
"""


def command(folder: Path, *words: str) -> str:
    script = Path(sys.executable).with_name("lightning-finetune")
    done = forking.run(script, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_the_file():
    assert (ROOT / "examples" / "grades.py").read_text() in PAGE.read_text()


def test_a_task_named_in_a_configuration_is_trained_shown_and_asked(photos: Path, tmp_path: Path):
    (tmp_path / "grades.py").write_text((ROOT / "examples" / "grades.py").read_text())
    (tmp_path / "run.yaml").write_text(CONFIG % photos)
    command(tmp_path, "fit", "--config", "run.yaml")
    run = tmp_path / "lightning_logs" / "version_0"
    assert pd.read_csv(run / "metrics.csv")["val_grades_off"].dropna().between(0, 2).all()
    assert (run / "predictions.png").is_file()
    assert "blue" in (run / "report.html").read_text()
    task = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--task", "grades.GradeClassifier"]
    command(tmp_path, "predict", *task, "--images", str(photos / "valid"))
    rows = list(csv.DictReader((tmp_path / "predictions" / "predictions.csv").open()))
    assert len(rows) == 12
    assert {row["prediction"] for row in rows} <= {"red", "green", "blue"}


def test_probabilities_of_grades_add_up_and_the_loss_knows_the_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    from grades import GradeClassifier

    task = GradeClassifier("test_convnext", num_classes=4, weights=False)
    shares = task.probabilities(torch.tensor([[3.0, -1.0, 2.0], [-1.0, -2.0, -9.0]]))
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    assert (shares >= 0).all()
    surely_second = torch.tensor([[9.0, -9.0, -9.0]])
    losses = [task.criterion(surely_second, torch.tensor([grade])).item() for grade in range(4)]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2] < losses[3]
