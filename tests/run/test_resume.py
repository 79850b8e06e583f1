"""Runs killed and resumed in a new process end with the same bits as runs that were not."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.resuming import assert_same_end, process, run


@pytest.fixture(scope="module", params=["fine_tune", "apart"])
def whole(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return request.param, run(out, "--which", request.param, "--optimizer", "adamw", "--shuffle")


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_killed_between_epochs_resumes_to_the_same_bits(whole, tmp_path, epoch):
    """Epochs 1 and 2 begin with an unfreezing; dropout, norm layers, Adam and a shuffled loader all take part."""
    which, expected = whole
    options = ["--which", which, "--optimizer", "adamw", "--shuffle"]
    run(tmp_path, *options, "--stop", epoch * 6, expect=17)
    resumed = run(tmp_path, *options, "--resume", tmp_path / f"step={epoch * 6}.ckpt")
    assert_same_end(expected, resumed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 3)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(
                    root / split / label / f"{number}.jpg"
                )
    return root


def options_of(folder: Path, which: str) -> list[object]:
    return ["--which", which, "--images", folder, "--batch-size", 4, "--workers", 2, "--every", 1]


@pytest.fixture(scope="module")
def unstopped(folder, tmp_path_factory):
    """What a run of images ends with that nothing stops; each is made once."""
    return functools.cache(lambda which: run(tmp_path_factory.mktemp("unstopped"), *options_of(folder, which)))


@pytest.mark.parametrize(
    ("step", "which"),
    [(5, "fine_tune"), (12, "find"), (8, "recipe"), pytest.param(16, "fine_tune", marks=pytest.mark.slow)],
)
def test_a_run_killed_within_an_epoch_continues_with_the_next_unseen_batch(folder, unstopped, tmp_path, step, which):
    """Six steps an epoch, augmentation, workers, dropout: step 5 is in the first phase, 16 in the last.

    The checkpoint of step 12 is of the last batch of an epoch, before its end; a range test comes next.
    """
    options, expected = options_of(folder, which), unstopped(which)
    run(tmp_path, *options, "--stop", step, expect=17)
    resumed = run(tmp_path, *options, "--resume", tmp_path / f"step={step}.ckpt")
    assert_same_end(expected, resumed)


def test_a_worker_that_is_killed_ends_the_run_in_a_sentence_and_the_rest_has_the_same_bits(folder, unstopped, tmp_path):
    options, expected = options_of(folder, "fine_tune"), unstopped("fine_tune")
    done = process("tests.runs", tmp_path, *options, "--stop", 8, "--how", "worker", expect=1)
    assert re.search(r"DataLoader worker \(pid.*\) is killed by signal: Killed", done.stderr)
    last = max(tmp_path.glob("step=*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    resumed = run(tmp_path, *options, "--resume", last)
    assert_same_end(expected, resumed)
