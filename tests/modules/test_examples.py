"""The examples that need packages of other projects."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.modules.published import NEEDS
from tests.modules.scenes import draw

ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_torchgeo(tmp_path):
    """Its task through the command, with random weights in place of a hub's."""
    pytest.importorskip("torchgeo", reason=NEEDS)
    draw(tmp_path / "scenes")
    model = {"class_path": "torchgeo.trainers.ClassificationTask", "init_args": {"weights": False}}
    phases = [{"epochs": 1, "train": "head", "lr": 3e-3, "size": 64}, {"epochs": 1, "train": "all", "lr": [1e-4, 1e-3]}]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"model": model, "fine_tune": {"phases": phases}}))
    words = ["-m", "lightning_finetune", "fit", "--config", str(ROOT / "examples/torchgeo.yaml")]
    words += ["--config", "short.yaml", "--data.root", "scenes", "--data.batch_size", "8", "--data.num_workers", "0"]
    said = run(tmp_path, *words, "--trainer.accelerator", "cpu")
    assert "FineTune takes the place of ReduceLROnPlateau" in said
    files = {path.name for path in (tmp_path / "lightning_logs/version_0").iterdir()}
    assert {"plan.csv", "predictions.png", "report.html", "metrics.csv"} <= files
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open() as file:
        accuracies = [row["val_AverageAccuracy"] for row in csv.DictReader(file) if row["val_AverageAccuracy"]]
    assert len(accuracies) == 2


def test_transformers_text(tmp_path):
    """It learns to tell the sentences apart, from random weights."""
    pytest.importorskip("transformers", reason=NEEDS)
    said = run(tmp_path, str(ROOT / "examples/transformers_text.py"))
    assert "head (1 of 5)" in said
    results = said.partition("Phases and their results")[2]
    assert float(re.search(r"all 5 groups +\S+ +\S+ +(\S+)", results)[1]) > 0.9
