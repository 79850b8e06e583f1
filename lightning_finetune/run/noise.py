"""What Lightning and torch say of every run, and nobody can do anything about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of torch
    r"The dirpath has changed",  # of a run that resumes: every run has a directory of its own
    r".*smaller than the logging interval",  # what is logged at the end of each epoch is enough for a small data set
    r"No positive samples found",  # torchmetrics, of a label that a few validation images lack
)

_UNSAID = ("litlogger", "TPU available", "`Trainer.fit` stopped: `max_epochs", "Seed set to")
"""Parts of what Lightning logs."""

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave it unsaid while the block runs."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for words in _WARNINGS:
            warnings.filterwarnings("ignore", words)
        for logger in loggers:
            logger.addFilter(_is_news)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in _UNSAID)
