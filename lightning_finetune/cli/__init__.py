"""The command ``lightning-finetune``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_finetune.cli.command_line import main, run

__all__ = ["main", "run"]


def __getattr__(name: str) -> Any:
    """Load the command when it is first used (PEP 562); its loggers serve any run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.command_line"), name)
