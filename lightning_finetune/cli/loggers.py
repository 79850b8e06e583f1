"""Loggers as the command line needs them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

HERE = "."
"""Where runs go if nothing else is said."""

LATEST = "latest"
"""The link beside the directories of runs that leads to the one that was started last."""


class RunLogger(CSVLogger):
    """Lightning's ``CSVLogger`` with a directory that no other run has: several may start in one folder at once.

    Args:
        save_dir: Holds the folder ``name``.
        name: Holds one directory a run: ``version_0``, ``version_1``, …
        version: Of an own choice.
        flush_logs_every_n_steps: How often the file is written.
    """

    def __init__(
        self,
        save_dir: str = HERE,
        name: str = "lightning_logs",
        version: int | str | None = None,
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=flush_logs_every_n_steps)
        self._own = version

    @property
    @override
    def version(self) -> int | str:
        """Of this run's directory, which the first process makes when it is first asked."""
        if self._own is None:
            version = int(super().version)
            while getattr(rank_zero_only, "rank", 0) == 0 and not _claimed(Path(self.root_dir, f"version_{version}")):
                version += 1
            self._own = version
        return self._own

    def is_latest(self) -> None:
        """Let ``latest`` lead to this run, if the file system has links."""
        link = Path(self.root_dir, LATEST)
        made = link.with_name(f"{LATEST}.{os.getpid()}")
        with suppress(OSError):
            made.symlink_to(Path(self.log_dir).name, target_is_directory=True)
            made.replace(link)


def _claimed(folder: Path) -> bool:
    """Make ``folder``; False where another run was first."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def through_latest(path: str | Path) -> str:
    """A path in which ``latest`` is the run that it leads to now: a new run takes the link over."""
    parts = [*Path(path).parents, Path(path)]
    link = next((part for part in parts if part.name == LATEST and part.is_symlink()), None)
    return str(path) if link is None else str(link.parent / link.readlink() / Path(path).relative_to(link))


def stay_offline_without_key() -> None:
    """Let Weights & Biases, if it is used, log to disk where nobody has logged in, instead of asking for a key."""
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # what is set and empty, W&B would take for a wrong word
    if not (os.environ.get("WANDB_API_KEY") or _key_is_kept()):
        os.environ.setdefault("WANDB_MODE", "offline")


def _key_is_kept() -> bool:
    """Whether somebody has logged in, in a container without a home too."""
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
    except (OSError, RuntimeError):  # a file that is not ours to read; a user without a home
        return False
