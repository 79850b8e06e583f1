"""What a signal saves is what the run resumes from, to the same bits, wherever the signal comes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint

PHASES = [Phase(1, train="head", lr=3e-3), Phase(2, train="all", lr=1e-3)]


class Signal(pl.Callback):
    """Sends signals to this process in ``hook``, once, when ``step`` steps have been made."""

    def __init__(self, hook: str, step: int, signals: tuple[int, ...] = (signal.SIGUSR1,)) -> None:
        self.sent = 0

        def send(trainer, *rest):
            if trainer.global_step == step and not self.sent:
                self.sent += 1
                for number in signals:
                    os.kill(os.getpid(), number)

        setattr(self, hook, send)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C is Python's, also where a shell began the tests in the background and let it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def job(monkeypatch, tmp_path: Path, interrupts: None) -> Path:
    """A SLURM job of one process, whose requeues are written to the file."""
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    environment = {"JOB_ID": "77", "NTASKS": "1", "LOCALID": "0", "NODEID": "0", "PROCID": "0", "JOB_NAME": "train"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    return tmp_path / "requeued"


def trained(photos: Path, root: Path, *callbacks: pl.Callback, begin: Path | None = None):
    """The trainer and weights of a run of nine steps."""
    pl.seed_everything(0, verbose=False)
    data = ImageData.from_folder(photos, size=32, batch_size=8)
    module = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes, weights=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        callbacks=[FineTune(PHASES), LastCheckpoint(), *callbacks],
        plugins=[SLURMEnvironment()],
        default_root_dir=root,
        **quiet,
    )
    trainer.fit(module, data, ckpt_path=begin)
    return trainer, module.state_dict()


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_before_optimizer_step",
        "on_validation_epoch_start",
        "on_validation_end",
    ],
)
def test_a_job_that_slurm_requeues_resumes_to_the_same_bits(photos: Path, tmp_path: Path, job: Path, hook: str):
    sender = Signal(hook, step=6)
    whole, weights = trained(photos, tmp_path, sender)
    assert sender.sent == 1
    assert job.read_text().split() == ["requeue", "77"]
    (kept,) = tmp_path.glob("hpc_ckpt_*.ckpt")
    again, rest = trained(photos, tmp_path / "again", begin=kept)
    assert again.global_step == whole.global_step == 9
    assert all(torch.equal(weights[name], rest[name]) for name in weights)


def test_a_job_that_is_requeued_and_then_interrupted_does_both(photos: Path, tmp_path: Path, job: Path):
    both = Signal("on_train_batch_start", step=4, signals=(signal.SIGUSR1, signal.SIGINT))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(photos, tmp_path, both)
    assert job.read_text().split() == ["requeue", "77"]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_handlers_are_given_back(photos: Path, tmp_path: Path, job: Path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]
    trained(photos, tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)] == before
