"""Cells that a spreadsheet may open, and that can be taken apart again."""

import csv

import pytest

from lightning_finetune.tasks.shared.csv_cells import joined, safe


@pytest.mark.parametrize(
    "labels", [[], ["a"], ["a", "b"], ["clear sky", "road; wet"], ['the "old" town', "a"], ["a\nb", "c,d"], ["", "x"]]
)
def test_joined_labels_are_split_again(labels):
    assert next(csv.reader(joined(labels).splitlines(keepends=True), delimiter=";"), []) == labels


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_text(text):
    assert safe(text) == f"'{text}"


@pytest.mark.parametrize("value", ["cat", "a=b", "", -1.5, 3, None])
def test_other_values_stay(value):
    assert safe(value) == value
