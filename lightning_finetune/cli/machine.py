"""What the command meets on its machine: encodings, folders full, closed or taken, what dead processes left."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from lightning_finetune.errors import FinetuneError, gone_worker

try:
    import fcntl
except ImportError:  # Windows, where processes leave none of these folders
    fcntl = None  # type: ignore[assignment]

_PREFIX = "lf-"
"""Short, as addresses of sockets lie in these folders, and hold 100 characters."""

_LOCK = "lock"

_OF_FILES = (
    (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "{} cannot be written: {}. Make room; a run resumes from its last checkpoint.",
    ),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "{}: {}. Choose another folder by `--trainer.default_root_dir` or `--out`.",
    ),
    (
        (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT),
        "{} cannot be read or written: {}. A disk or network fails; a run can be resumed.",
    ),
    (
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "{}: {}. A file lies where a folder is to be, or the reverse; choose another name.",
    ),
)
"""What is said of errors of files, by their kind."""


def escape_what_cannot_be_shown() -> None:
    """Let a terminal that cannot show a name show it escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def in_a_sentence(error: Exception) -> str | None:
    """What is said of an error that neither this package nor Lightning puts into words; None where it is none such."""
    if isinstance(error, OSError):
        return _of_file(error)
    if (text := gone_worker(error)) is not None:  # of a loader of somebody else
        return text
    package = type(error).__module__.partition(".")[0]
    if package == "wandb":
        return f"Weights & Biases: {error}"
    if package == "pydantic_core" and getattr(error, "title", "") == "Settings":  # theirs, mostly of the environment
        wrong: Any = error
        return "Weights & Biases: " + "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in wrong.errors()
        )
    return None


def _of_file(error: OSError) -> str | None:
    name = error.filename2 or error.filename or "a file"
    said = next((sentence for kinds, sentence in _OF_FILES if error.errno in kinds), None)
    return None if said is None else said.format(name, error.strerror)


def claim(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make a folder, unless it holds the results of somebody else.

    Args:
        folder: To write to.
        names: Of the files and folders in it that will be written.
        overwrite: Write over what is there.

    Raises:
        FinetuneError: One of ``names`` is there, or a file in place of the folder.
    """
    from lightning_finetune.data.block.folder_images import OUTPUTS  # only now: help is given before Pillow is loaded

    if folder.exists() and not folder.is_dir():
        raise FinetuneError(f"{folder}: expected a folder to write to, got a file. Give another name by --out.")
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTPUTS).touch()
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise taken(folder / there[0])


def taken(path: Path) -> FinetuneError:
    """The error of results that are there already, maybe since a moment ago."""
    return FinetuneError(
        f"{path}: there are results already. Give another folder by --out, or --overwrite to replace them."
    )


def use_own_temporary_folder() -> None:
    """Keep the temporary files of this process and of those that it starts together, and remove what dead ones left.

    A process that is killed removes nothing: Python's own processes each leave a folder. So each run of the command
    has one folder for all, with a lock that ends with the last of its processes, and the next run removes those whose
    lock is free.
    """
    parent = Path(tempfile.gettempdir())
    if fcntl is None or (parent / _LOCK).exists():  # that of the process that started this one
        return
    _remove_dead(parent)
    with suppress(OSError):  # it is tidiness alone; a place that nothing can be written to is met again
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = (folder / "new").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / _LOCK)  # only now may others try it
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        atexit.register(_remove_own, folder, lock, os.getpid())


def _remove_own(folder: Path, lock: IO[str], process: int) -> None:
    if os.getpid() == process:  # not a fork of it
        tempfile.tempdir = str(folder.parent)
        os.environ["TMPDIR"] = tempfile.tempdir
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _remove_dead(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
