"""Checkpoints on real disks: full ones, other file systems, and processes that are killed while they write."""

import multiprocessing
import os
import random
import resource
import signal
import socket
import tempfile
import time
from pathlib import Path

import fsspec
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_finetune import FineTune, Phase
from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.errors import CheckpointError
from lightning_finetune.run.checkpoint_file import SafeCheckpointIO
from tests.foreign import ForeignNet, fitted, loader, quiet_trainer

MB = 1 << 20


def checkpoint(number: int, size: int = 2 * MB) -> dict:
    return {"number": number, "weights": torch.full((size,), number % 256, dtype=torch.uint8)}


def read(path: Path) -> int:
    """The number of a checkpoint that is whole."""
    found = torch.load(path, weights_only=True)
    assert bool((found["weights"] == found["number"] % 256).all())
    return found["number"]


@pytest.fixture
def small_disk():
    """Files may grow to 1 MB, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before_and_no_litter(tmp_path, request):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1), path)
    request.getfixturevalue("small_disk")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*cannot be written: File too large\. The one before is"):
        SafeCheckpointIO().save_checkpoint(checkpoint(2), path)
    assert read(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def write_on(path: Path, temporary: str, written) -> None:
    tempfile.tempdir = temporary
    for number in range(10_000):
        SafeCheckpointIO().save_checkpoint(checkpoint(number, 32 * MB), path)
        written.value = number


@pytest.mark.parametrize("temporary", ["here", "/dev/shm"])  # another file system
def test_whoever_is_killed_while_it_writes_leaves_a_whole_checkpoint_not_older_than_the_last(tmp_path, temporary):
    path, draws = tmp_path / "last.ckpt", random.Random(0)
    clean = multiprocessing.get_context("forkserver")  # what is forked from a process with threads may hang
    clean.set_forkserver_preload([__name__])
    for _ in range(6):
        written = clean.Value("i", -1)
        folder = str(tmp_path) if temporary == "here" else temporary
        process = clean.Process(target=write_on, args=(path, folder, written))
        process.start()
        deadline = time.monotonic() + 60
        while written.value < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert read(path) in (written.value, written.value + 1)
    SafeCheckpointIO().save_checkpoint(checkpoint(0), path)
    assert list(tmp_path.iterdir()) == [path]  # what the killed ones left is gone


def test_what_another_machine_is_writing_stays_until_it_is_old(tmp_path):
    path = tmp_path / "last.ckpt"
    names = [f".last.ckpt.{host}.part" for host in ("there.77", f"{socket.gethostname()}.{os.getpid()}", "old.77")]
    mine, other = tmp_path / ".notes.part", tmp_path / ".best.ckpt.there.77.part"
    for part in (*(tmp_path / name for name in names), mine, other):
        part.write_bytes(b"1")
    for part in (tmp_path / names[2], mine, other):
        os.utime(part, (1e9, 1e9))
    SafeCheckpointIO().save_checkpoint(checkpoint(1), path)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / names[0], mine, other])


def test_other_places_are_lightnings():
    SafeCheckpointIO().save_checkpoint(checkpoint(3), "memory://run/last.ckpt")
    with fsspec.open("memory://run/last.ckpt") as file:
        assert torch.load(file, weights_only=True)["number"] == 3
    assert SafeCheckpointIO().load_checkpoint("memory://run/last.ckpt")["number"] == 3


class Own(TorchCheckpointIO):
    """A user's."""


@pytest.mark.parametrize(
    "callback",
    [LastCheckpoint, BestCheckpoint, lambda: FineTune([Phase(1, "all", 1e-2)])],
    ids=["last", "best", "plan"],
)
@pytest.mark.parametrize("given", [None, Own])
def test_callbacks_write_safely_unless_the_user_chose_how(tmp_path, callback, given):
    plugins = [given()] if given else []
    trainer = fitted(
        tmp_path, callback(), data=(loader(8), loader(8)), plugins=plugins, enable_checkpointing=True, max_epochs=1
    )
    assert type(trainer.strategy.checkpoint_io) is (given or SafeCheckpointIO)


@pytest.mark.parametrize("damage", [lambda held: held[: len(held) // 2], lambda held: b"", lambda held: b"what?" * 99])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, damage):
    settings = {"max_epochs": 1, "enable_checkpointing": True}
    quiet_trainer(tmp_path, callbacks=[LastCheckpoint()], **settings).fit(ForeignNet(), loader(8))
    last = tmp_path / "checkpoints/last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: the checkpoint is damaged") as caught:
        quiet_trainer(tmp_path, callbacks=[LastCheckpoint()], **settings).fit(ForeignNet(), loader(8), ckpt_path=last)
    assert "\n" not in str(caught.value)
