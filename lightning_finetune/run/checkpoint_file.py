"""How a checkpoint gets onto the disk: whole, or not at all."""

from __future__ import annotations

import io
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override

from lightning_finetune.errors import CheckpointError

_PART = ".part"
"""How the name of a file ends that is being written, after the machine and the process that write it."""

_STALE = 3600.0
"""Seconds after which nobody writes to such a file any more, whichever machine began it."""


def write_safely(trainer: pl.Trainer) -> None:
    """Let a run write its checkpoints by :class:`SafeCheckpointIO`, unless its user gave a ``CheckpointIO``."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # Lightning's own default
        trainer.strategy.checkpoint_io = SafeCheckpointIO()


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's, but a file on this machine is replaced only by one that is whole and on the disk.

    Lightning writes into the temporary folder and moves the file. Where that is another file system, as in containers,
    the move is a copy over the checkpoint before, and whoever is killed within it has none.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside ``path``, and take its place.

        Raises:
            CheckpointError: There is no room, or no permission; the checkpoint before is as it was.
        """
        if storage_options is not None or "://" in str(path):  # s3://…
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            _replace(Path(path), content.getbuffer())
        except OSError as error:
            before = " The one before is as it was." if Path(path).is_file() else ""
            raise CheckpointError(
                f"{path}: the checkpoint cannot be written: {error.strerror or error}.{before} Make room, or choose "
                "another folder (`default_root_dir` of the Trainer, `save_dir` of its logger), and resume."
            ) from error

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # torch raises whatever it trips over in a damaged file
            if "Unsupported global" in str(error):  # whole, but with code in it; torch says what to do
                raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise CheckpointError(
                f"{path}: the checkpoint is damaged, or not one of Lightning's: {reason} Resume from another."
            ) from error
        return checkpoint


def _replace(place: Path, content: memoryview) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    _drop_unfinished(place)
    part = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}{_PART}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(place.parent)


def _drop_unfinished(place: Path) -> None:
    """Remove what a process that was killed left of the same checkpoint."""
    here = f".{place.name}.{socket.gethostname()}."
    for part in place.parent.glob(f".{place.name}.*{_PART}"):
        number = part.name.removeprefix(here).removesuffix(_PART)
        dead = part.name.startswith(here) and number.isdecimal() and not _lives(int(number))
        with suppress(OSError):  # another process was first
            if dead or time.time() - part.stat().st_mtime > _STALE:
                part.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """So that the name is on the disk too; not on systems that do not open folders."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
