"""After processes that Lightning spawned or forked, the first one knows what they learned."""

import json

import pytest

from tests import forking


@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)])
def test_the_task_and_what_is_saved_from_there_know_classes_preprocessing_and_thresholds(photos, tmp_path, strategy):
    done = forking.run("-m", "tests.tasks.shared.spawned", photos, tmp_path, strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "known.json").read_text())
    task, saved = said["known"]
    assert task == saved
    assert task["classes"] == ["blue", "green", "lit", "red"]
    assert task["preprocessing"]["size"] == [32, 32]
    assert task["thresholds"] != said["before"]
