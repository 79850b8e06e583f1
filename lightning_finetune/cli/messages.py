"""What the command says, in lines that fit the terminal."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

_COMMAND = "  lightning-finetune "
_LOGGERS = ("lightning.pytorch", "lightning.fabric")


def fitted(text: str, stream: TextIO) -> str:
    """``text`` with lines broken between words where ``stream`` is a terminal.

    A command on an indented line is broken so that it can still be copied; other indented lines stay whole.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line for long in text.split("\n") for line in _lines(long, width))


def _lines(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    if line.startswith(_COMMAND):
        *parts, last = _words(line, width - 2, "      ")
        return [*(f"{part} \\" for part in parts), last]
    return [line] if line.startswith("  ") else _words(line, width)


def _words(line: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def say_error(text: str) -> None:
    """Write ``text`` to the standard error stream."""
    print(fitted(text, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201


def end(text: str) -> NoReturn:
    """End the process with status 1 and an error message, which Python prints."""
    sys.exit(fitted(f"lightning-finetune: error: {text}", sys.stderr))


class _Said(logging.Handler):
    """Writes to the stream that is standard error now: a progress bar puts its own in the place of the real one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say_error(self.format(record))
        except Exception:
            self.handleError(record)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning without the place in the code, which is none of the user's."""
    kind = "Warning" if issubclass(category, UserWarning) else category.__name__
    say_error(f"{kind}: {str(message).strip()}")


@contextmanager
def beside_a_progress_bar() -> Iterator[None]:
    """Let what Lightning and this package log in the block neither break into a progress bar nor be broken by it."""
    before = {logger: logger.handlers for logger in map(logging.getLogger, _LOGGERS)}
    for logger, handlers in before.items():
        logger.handlers = [_Said()] if handlers else []
    show, warnings.showwarning = warnings.showwarning, _warn
    try:
        yield
    finally:
        warnings.showwarning = show
        for logger, handlers in before.items():
            logger.handlers = handlers
