"""What a terminal of 80 columns shows, and what a pipe gets."""

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import sys
import termios
import threading
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
from rich.console import Console

from lightning_finetune.cli import progress_line
from lightning_finetune.cli.messages import beside_a_progress_bar, fitted
from tests.cli.launching import PROGRAM, SHORT, SMALL
from tests.foreign import ForeignNet, loader

ERASE = re.compile(r"\x1b\[2K")
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_a_terminal(words: list[str], folder: Path) -> str:
    """All that a process writes to a terminal of 80 columns, with the codes that move its cursor."""
    child, screen = pty.fork()
    if child == 0:
        os.chdir(folder)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        unset = {"COLUMNS", "LINES", "NO_COLOR"}
        env = {name: value for name, value in os.environ.items() if name not in unset}
        os.execve(words[0], words, {**env, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"})
    said = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # Linux says so that the other end is closed
            part = b""
        if not part:
            break
        said += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said.decode()[-3000:]
    return said.decode()


def test_progress_moves_in_one_line_and_nothing_that_is_said_is_erased(photos: Path, tmp_path: Path) -> None:
    said = on_a_terminal([PROGRAM, "fit", str(photos), *SMALL, *SHORT], tmp_path)
    assert "epoch 2 of 2" in said
    assert "Epoch 0" not in said
    *moving, end = ERASE.split(said)
    assert len(moving) >= 2, "a line that moves"
    for words in ("Phases and their results", "all 9 groups", "report.html", "To predict other images:"):
        assert words in end, "said after the line has gone"
    lines = [STYLE.sub("", line) for line in re.split(r"[\r\n]+", said)]
    assert [line for line in lines if len(line.rstrip()) > 80 and str(photos) not in line] == []


def test_no_thread_moves_the_line_while_workers_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It might hold the terminal's lock in that moment: the worker's first warning would wait for ever."""
    screen = io.StringIO()
    monkeypatch.setattr(progress_line.rich, "get_console", lambda: Console(file=screen, force_terminal=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress_line, "_MOVES", 0.0)
    threads: set[str] = set()

    class Threads(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            threads.update(thread.name for thread in threading.enumerate())

    before = {thread.name for thread in threading.enumerate()}
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[progress_line.ProgressLine(), Threads()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(ForeignNet(), loader(), loader())
    assert threads <= before
    assert "epoch 1 of 2" in screen.getvalue()
    assert "epoch 2 of 2" in screen.getvalue()


def test_a_pipe_gets_lines_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> list[str]:
        trainer = pl.Trainer(
            max_epochs=1,
            callbacks=[progress_line.ProgressLine()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(ForeignNet(), loader(), loader())
        return [line for line in capsys.readouterr().out.splitlines() if "batches" in line]

    assert run() == [], "less than a minute"
    monkeypatch.setattr(progress_line, "SECONDS", 0.0)
    train, *_, valid = run()
    assert re.fullmatch(r"epoch 1 of 1: 1 of \d+ batches(  loss \d+\.\d{4})?", train)
    assert re.match(r"validation: (\d+) of \1 batches", valid)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_sentences_end_at_words_and_commands_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = "  lightning-finetune predict --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt --images FOLDER"
    text = f"{'word ' * 30}end\n{command}\n  {'x' * 100}"
    lines = fitted(text, Screen()).split("\n")
    assert [line for line in lines if len(line) > 80] == [f"  {'x' * 100}"]
    assert " ".join(lines[:2]) == f"{'word ' * 30}end"
    assert shlex.split("\n".join(lines[2:-1]).replace("\\\n", "")) == shlex.split(command)  # as a shell does
    assert fitted(text, io.StringIO()) == text


def test_a_warning_is_said_without_its_place_in_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), beside_a_progress_bar():
        warnings.simplefilter("always")
        warnings.warn("too few images", stacklevel=1)
        warnings.warn("gone in 3.0", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: too few images\nDeprecationWarning: gone in 3.0\n"
