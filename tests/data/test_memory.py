import subprocess
import sys

import pytest

HELD = """
import psutil, torch
from lightning_finetune.data.memory import release_freed

blocks = [torch.ones(15_000) for _ in range(5_000)]  # 300 MB, in blocks that the C library keeps for itself
last = blocks[-1]  # above them, so that the heap cannot shrink from its end
held = psutil.Process().memory_info().rss
del blocks
{call}
print((held - psutil.Process().memory_info().rss) / 2**20)
"""


def given_back(call: str) -> float:
    """Megabytes of freed memory that the system has again."""
    done = subprocess.run([sys.executable, "-c", HELD.format(call=call)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_given_back_to_the_system():
    assert given_back("pass") < 100
    assert given_back("release_freed()") > 250
