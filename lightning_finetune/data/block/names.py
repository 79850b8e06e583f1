"""Names of classes, as people and file systems write them."""

from __future__ import annotations

import unicodedata


def clean(name: str) -> str:
    """A name without blanks around it, each letter in one form: macOS writes accents apart, others do not.

    Names of folders need not be UTF-8, and where the locale is not, Python reads none as such; what is drawn, printed
    and written must be. Bytes that are no UTF-8 are told by their hexadecimal numbers.
    """
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair of UTF-16
        text = name.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", text).strip()
