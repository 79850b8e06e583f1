"""Lightning's classes by either name of the package.

``pytorch_lightning`` holds a copy of its own of everything in ``lightning.pytorch``: the same classes, and yet others.
A Trainer of one with callbacks of the other works as long as nobody asks ``isinstance``.
"""

from __future__ import annotations

from typing import TypeGuard, TypeVar

T = TypeVar("T")


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Whether ``found`` is of ``kind``, or of the class of that name in ``pytorch_lightning``.

    Args:
        value: Any object.
        kind: A class of ``lightning.pytorch``.
    """
    home = kind.__module__.replace("lightning.pytorch", "pytorch_lightning", 1)
    return isinstance(value, kind) or any(
        (one.__module__, one.__qualname__) == (home, kind.__qualname__) for one in type(value).__mro__
    )
