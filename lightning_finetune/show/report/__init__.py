"""The report of a run: one page of HTML that needs nothing else, made of plain values."""

from lightning_finetune.show.report.page import Outcome, RangeTest, Report, render
from lightning_finetune.show.report.photos import Example, Gallery

__all__ = ["Example", "Gallery", "Outcome", "RangeTest", "Report", "render"]
