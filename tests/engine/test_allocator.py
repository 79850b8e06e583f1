"""In processes of their own: what others have allocated before decides where memory lies."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from tests import forking

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc"
)

FREED = """
import sys
import psutil, torch
from lightning_finetune.data import ImageData
from lightning_finetune.engine.allocator import release_freed

here = psutil.Process()
loader = ImageData.from_folder(sys.argv[1], size=32, batch_size=2, num_workers=1).train_dataloader()
before = here.memory_info().rss
blocks = [torch.ones(15_000) for _ in range(5_000)]  # 300 MB, in blocks that the C library keeps for itself
last = blocks[-1]  # above them, so that the heap cannot shrink from its end
del blocks
{then}
print((process.memory_info().rss - before) / 2**20)
loader.close()
"""


def grown(root: Path, then: str) -> float:
    """Megabytes that a process has more than this one had before it allocated and freed 300."""
    done = forking.run("-c", FREED.format(then=then), root)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout.split()[-1])


def test_freed_memory_is_given_back_to_the_system(insects: Path):
    assert grown(insects, "process = here") > 250
    assert grown(insects, "release_freed(); process = here") < 50


def test_workers_do_not_hold_what_this_process_has_freed(insects: Path):
    load = "next(iter(loader)); (process,) = here.children()"
    without = f"import lightning_finetune.data.batches.loader as module; module.release_freed = lambda: None; {load}"
    assert grown(insects, without) - grown(insects, load) > 200


STEPS = """
import resource
import lightning.pytorch as pl, torch
from lightning_finetune.engine.allocator import keep_freed
from lightning_finetune.callbacks import OneCycle
from tests.foreign import ForeignNet, loader, quiet_trainer

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_500_000)  # 50 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
{then}
faults()  # grows for the last time
print(usual, faults())
"""


@pytest.mark.parametrize(
    ("then", "keeps"),
    [
        ("keep_freed()", True),
        ("import os; os.environ['LIGHTNING_FINETUNE_KEEP_MEMORY'] = '0'; keep_freed()", False),
        ("quiet_trainer('.', max_epochs=1).fit(ForeignNet(), loader(8, 4))", False),
        ("quiet_trainer('.', max_epochs=1, callbacks=[OneCycle(0.1)]).fit(ForeignNet(), loader(8, 4))", True),
    ],
)
def test_training_on_the_cpu_takes_memory_from_the_system_once(tmp_path: Path, then: str, keeps: bool):
    done = forking.run("-c", STEPS.format(then=then), cwd=tmp_path, env={"PATH": os.defpath})
    assert done.returncode == 0, done.stderr[-3000:]
    usual, after = map(int, done.stdout.split()[-2:])
    assert usual > 20 * 50e6 / 4096 * 0.9
    assert (after < usual / 50) == keeps
