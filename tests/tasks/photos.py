"""Small real files that every task test can use."""

import numpy as np
from PIL import Image


def photo(kind: str, number: int, size: int = 72) -> Image.Image:
    """A red or blue photo with noise: easy to tell apart."""
    noise = np.random.default_rng(number).integers(0, 90, (size, size + 8, 3), dtype=np.uint8)
    noise[..., 0 if kind == "red" else 2] += 150
    return Image.fromarray(noise)
