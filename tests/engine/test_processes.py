"""How a run of several processes ends."""

import sys
from pathlib import Path

import pytest

from tests.cli.launching import QUIET, SHORT, SMALL, TWO, free_port, launch

pytestmark = pytest.mark.slow

ENDS = """
import atexit
from torch import distributed
atexit.register(lambda: print("group at the end:", distributed.is_initialized()))
from lightning_finetune.cli import main
main()
"""


def test_the_group_of_processes_ends_before_python_does(photos: Path, tmp_path: Path) -> None:
    """Else a thread of gloo's may abort the process while Python ends."""
    (tmp_path / "command.py").write_text(ENDS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET, *TWO]
    process = launch([*torchrun, "command.py", *words], tmp_path)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("group at the end: False") == 2, said
