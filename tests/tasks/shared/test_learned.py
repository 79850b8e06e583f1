"""After processes that Lightning spawned or forked, the first one knows what they learned."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)])
def test_the_task_and_what_is_saved_from_there_know_classes_preprocessing_and_thresholds(photos, tmp_path, strategy):
    words = [sys.executable, "-m", "tests.tasks.shared.spawned", str(photos), str(tmp_path), strategy]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "known.json").read_text())
    task, saved = said["known"]
    assert task == saved
    assert task["classes"] == ["blue", "green", "lit", "red"]
    assert task["preprocessing"]["size"] == [32, 32]
    assert task["thresholds"] != said["before"]
