"""Names of classes, as people and file systems write them."""

from __future__ import annotations

import unicodedata


def clean(name: str) -> str:
    """A name without blanks around it, each letter in one form: macOS writes accents apart, others do not."""
    return unicodedata.normalize("NFC", name).strip()
