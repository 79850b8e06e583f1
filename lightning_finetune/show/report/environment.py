"""Where and how a run was started: versions, machine, commit and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = (
    "lightning-finetune",
    "lightning",
    "torch",
    "torchvision",
    "torchmetrics",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
)
_SECRET = r"[\w.-]*(?:api_?key|token(?!s|iz)|passw|secret|credential)[\w.-]*"  # noqa: S105  # how they are called
_HIDDEN = "***"


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does, by name."""
    return {"Python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    """The system and its number of CPU cores; nothing that names this one among others."""
    return f"{platform.system()} on {platform.machine()}, {os.cpu_count()} CPU cores"


def commit(folder: Path) -> str:
    """The git commit of ``folder``, and whether there were changes beside; empty where there is no git or no commit."""
    git = shutil.which("git")
    if git is None:
        return ""
    digest = _output([git, "-C", str(folder), "rev-parse", "HEAD"])
    changed = _output([git, "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]) if digest else ""
    return digest + (" with changes that are not committed" if changed else "")


def _output(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # git alone
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command(words: Sequence[str] | None = None) -> str:
    """The command of this process as it can be typed again, an option a line, without what looks like a secret.

    Args:
        words: Interpreter, its options, script and arguments; by default ``sys.orig_argv``.
    """
    given = list(sys.orig_argv if words is None else words)
    if len(given) > 1 and Path(given[1]).name == "lightning-finetune":
        given = ["lightning-finetune", *given[2:]]
    elif given:
        given[0] = Path(given[0]).name
    words = _without_secrets(given)
    return " ".join(("\\\n  " if word.startswith("--") else "") + shlex.quote(word) for word in words)


def _without_secrets(words: Sequence[str]) -> list[str]:
    """``--x.api_key=…``, ``--x.api_key …`` and what follows such a name within a word, without the value."""
    shown: list[str] = []
    for word in words:
        if shown and re.fullmatch(f"--{_SECRET}", shown[-1], re.IGNORECASE) and not word.startswith("--"):
            shown.append(_HIDDEN)
        else:
            parts = re.split(rf"({_SECRET}[\"']?\s*[=:])", word, maxsplit=1, flags=re.IGNORECASE)
            shown.append(word if len(parts) == 1 else parts[0] + parts[1] + _HIDDEN)
    return shown


def hide_secrets(yaml: str) -> str:
    """A configuration without the values of what is called a key, a token, a password or a secret."""
    return re.sub(rf"^(\s*(?:- )?{_SECRET}:) (?!null$).+$", rf"\1 {_HIDDEN}", yaml, flags=re.IGNORECASE | re.MULTILINE)
