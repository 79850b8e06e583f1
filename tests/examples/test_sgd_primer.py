"""The primer as a reader runs it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from tests import forking

SCRIPT = Path(__file__).parents[2] / "examples/sgd_primer.py"


def test_it_recovers_the_line_both_ways_and_draws_how(tmp_path: Path) -> None:
    done = forking.run(SCRIPT, tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for found in ("found by hand", "found in Lightning"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(found)]
        slope, intercept = (float(number) for number in line.split("[")[1].split("]")[0].split(","))
        assert abs(slope - 3) < 0.1, line
        assert abs(intercept - 2.25) < 0.1, line
    for name in ("by_hand.gif", "lightning.gif"):
        with Image.open(tmp_path / "out" / name) as film:
            frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
        assert len(frames) == 50 + (name == "by_hand.gif")
        assert (frames[0] != frames[-1]).any()
        assert (frames[-1] != frames[-2]).sum() < (frames[0] != frames[1]).sum() or name != "by_hand.gif"
