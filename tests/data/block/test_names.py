"""Names of classes can be drawn, printed and written, whatever the file system holds."""

import os
from pathlib import Path

import pytest

from lightning_finetune import ImageData
from lightning_finetune.data.block.label_values import clean
from tests.data.images import fill


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("k\u00e4fer", "k\u00e4fer"),
        ("ka\u0308fer", "k\u00e4fer"),
        (os.fsdecode(b"k\xe4fer"), "k\\xe4fer"),  # Latin-1
        (b"k\xc3\xa4fer".decode("ascii", "surrogateescape"), "k\u00e4fer"),  # as in the locale C
        ("half \ud83d", "half \\ud83d"),
        ("\u00a0cat\u3000", "cat"),
    ],
)
def test_names_become_what_can_be_written(name: str, cleaned: str):
    assert clean(name) == cleaned
    clean(name).encode()


def test_folders_that_are_not_utf8_are_drawn_escaped(tmp_path: Path):
    for split in ("train", "valid"):
        for name in (b"k\xe4fer", b"biene"):
            fill(Path(os.fsdecode(os.fsencode(tmp_path / split) + b"/" + name)), 2)
    data = ImageData.from_folder(tmp_path, size=32, num_workers=0)
    assert data.classes == ["biene", "k\\xe4fer"]
    data.show_batch(4).savefig(tmp_path / "batch.png")
    assert "k\\xe4fer" in str(data.summary())
