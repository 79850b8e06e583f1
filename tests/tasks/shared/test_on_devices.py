"""All devices of a Trainer are asked: each image once, in order, with the numbers of one process."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest

from lightning_finetune.errors import UnsupportedError
from lightning_finetune.tasks.shared.sources import read_ahead
from tests import forking
from tests.tasks.shared.asked import ask, classifier


def test_two_processes_say_what_one_says(photos: Path, tmp_path: Path):
    done = forking.run("-m", "tests.tasks.shared.asked", tmp_path, photos, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    one = ask(photos, None)
    for rank in (0, 1):
        both = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name in ("found", "alone"):
            for said, expected in zip(both[name], one[name], strict=True):
                assert said == pytest.approx(expected, abs=1e-6)
        assert both["items"]["file"] == one["items"]["file"]
        assert both["items"]["prediction"] == one["items"]["prediction"]
        np.testing.assert_allclose(both["items"]["loss"], one["items"]["loss"], atol=1e-5)
        np.testing.assert_allclose(both["masks"], one["masks"], atol=1e-5)
        assert (both["counts"], both["pixels"]) == (one["counts"], one["pixels"])


def test_processes_that_give_nothing_back_are_refused(photos: Path):
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False, enable_checkpointing=False)
    with pytest.raises(UnsupportedError, match="run the whole script"):
        classifier().predict(photos / "valid", trainer=trainer)


def test_what_is_read_ahead_comes_in_order_and_no_more_than_was_asked_for(monkeypatch):
    monkeypatch.setattr("lightning_finetune.tasks.shared.sources.readers", lambda: 3)
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number * number

    reading = read_ahead(read, range(100), ahead=4)
    assert [next(reading) for _ in range(10)] == [number * number for number in range(10)]
    reading.close()
    assert 10 <= len(begun) <= 10 + 4 + 1
