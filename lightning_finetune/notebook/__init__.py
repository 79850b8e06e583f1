"""Calls for notebooks: the run, the range test and the pictures of a model in one line each."""

from lightning_finetune.notebook.calls import fine_tune, lr_find, show_results
from lightning_finetune.notebook.results import RangeTestResult, Run

__all__ = ["RangeTestResult", "Run", "fine_tune", "lr_find", "show_results"]
