"""What a signal saves is what the run resumes from, to the same bits, wherever the signal comes."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_finetune import FineTune, ImageClassifier, ImageData, OneCycle, Phase
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from tests.foreign import ForeignNet, loader, quiet_trainer
from tests.resuming import assert_same_bits

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
    """Ctrl-C and a hang-up are Python's, also where a shell or `nohup` began the tests and let them be ignored."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


class Losses(pl.Callback):
    """The loss of each validation, by the number of batches before it."""

    def __init__(self) -> None:
        self.of: dict[int, float] = {}

    def on_validation_end(self, trainer, pl_module):
        self.of[trainer.fit_loop.total_batch_idx + 1] = float(trainer.callback_metrics["val_loss"])


def accumulated(root: Path, *callbacks: pl.Callback, begin: Path | None = None, **options):
    """Weights and validation losses of two epochs of three steps of three batches; None where it was stopped."""
    pl.seed_everything(0, verbose=False)
    module, losses = ForeignNet(), Losses()
    phased = FineTune([Phase(1, "head", 1e-2), Phase(1, "all", 1e-3)])
    trainer = quiet_trainer(
        root,
        callbacks=[phased, losses, LastCheckpoint(), *callbacks],
        enable_checkpointing=True,
        accumulate_grad_batches=3,
        **options,
    )
    try:
        trainer.fit(module, loader(72, shuffle=True), loader(32, seed=1), ckpt_path=begin)
    except (KeyboardInterrupt, SystemExit, SIGTERMException):
        return None
    return dict(module.state_dict()), losses.of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return accumulated(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 1, 2),  # amid the gradients of the second step
        ("on_train_batch_start", 4, 5),
        ("on_before_backward", 2, 3),  # of the last step of the epoch: ends with the first batch of its validation
        ("on_validation_batch_start", 3, 3),
    ],
)
def test_what_a_signal_saves_is_between_two_steps(undisturbed, tmp_path, interrupts, number, hook, step, saved):
    assert accumulated(tmp_path, Signal(hook, step, (number,))) is None
    last = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved
    weights, losses = accumulated(tmp_path / "rest", begin=last)
    assert_same_bits(undisturbed[0], weights)
    assert losses.items() <= undisturbed[1].items()
    assert len(losses) == (2 if saved <= 3 else 1)


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 0, 1),  # amid the gradients of a step, between two validations
        ("on_before_backward", 1, 2),  # of a step that a validation follows
        ("on_validation_batch_start", 1, 2),  # which comes amid the gradients of a step
        ("on_validation_batch_start", 2, 2),
    ],
)
def test_a_signal_loses_neither_gradients_nor_a_validation_amid_an_epoch(tmp_path, interrupts, hook, step, saved):
    every_two = {"val_check_interval": 2}
    whole, losses = accumulated(tmp_path / "whole", **every_two)
    first = Losses()
    assert accumulated(tmp_path, first, Signal(hook, step, (signal.SIGTERM,)), **every_two) is None
    last = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved
    rest, others = accumulated(tmp_path / "rest", begin=last, **every_two)
    assert_same_bits(whole, rest)
    assert {**first.of, **others} == losses
    assert len(losses) == 8


@pytest.mark.parametrize(("every", "hook", "step"), [(1, "on_validation_start", 3), (3, "on_train_batch_start", 4)])
def test_no_step_checkpoint_resumes_without_the_validation_that_follows_it(tmp_path, every, hook, step):
    def fail(trainer, *rest):
        if trainer.global_step == step:
            raise RuntimeError("killed")

    def run(root, *callbacks, begin=None):
        pl.seed_everything(0, verbose=False)
        each = [OneCycle(1e-2), losses := Losses(), LastCheckpoint(every), *callbacks]
        trainer = quiet_trainer(root, callbacks=each, val_check_interval=3, max_epochs=1, enable_checkpointing=True)
        with pytest.raises(RuntimeError, match="killed") if callbacks else nullcontext():
            trainer.fit(ForeignNet(), loader(), loader(32, seed=1), ckpt_path=begin)
        return losses.of

    killer = pl.Callback()
    setattr(killer, hook, fail)
    whole, first = run(tmp_path / "whole"), run(tmp_path, killer)
    assert {**first, **run(tmp_path / "rest", begin=tmp_path / "checkpoints/last.ckpt")} == whole
    assert list(whole) == [3, 6]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_whatever_signal_requeues_a_job_waits_for_the_step(undisturbed, tmp_path, job, number):
    class Amid(pl.Callback):  # the gradients of the second step
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.fit_loop.total_batch_idx == 4:
                os.kill(os.getpid(), number)

    accumulated(tmp_path, Amid(), plugins=[SLURMEnvironment(requeue_signal=number)])
    assert job.read_text().split() == ["requeue", "77"]
    (kept,) = tmp_path.glob("hpc_ckpt_*.ckpt")
    weights, _ = accumulated(tmp_path / "rest", begin=kept)
    assert_same_bits(undisturbed[0], weights)


def test_in_epochs_of_one_batch_an_interrupt_is_obeyed_when_the_next_begins(tmp_path, interrupts):
    sender = Signal("on_train_batch_start", 1, (signal.SIGINT,))
    settings = {"enable_checkpointing": True, "max_epochs": 9}
    trainer = quiet_trainer(tmp_path, callbacks=[LastCheckpoint(), sender], **settings)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(ForeignNet(), loader(8))
    assert trainer.global_step == 2
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_handlers_are_given_back(photos: Path, tmp_path: Path, job: Path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    trained(photos, tmp_path)
    assert [signal.getsignal(number) for number in numbers] == before
