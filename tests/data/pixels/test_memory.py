"""Arrays in memory that processes share."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lightning_finetune.data.pixels.memory import SharedArrays, free_bytes

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="of Linux")


def whole(value: int, size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_an_array_is_kept_for_one_size_and_the_last_one_counts():
    arrays = SharedArrays(3, 2**30)
    assert arrays.read(1, (4, 6)) is None
    arrays.write(1, (4, 6), whole(1, (8, 5)))  # what is kept for a size may have another
    assert np.array_equal(arrays.read(1, (4, 6)), whole(1, (8, 5)))
    assert arrays.read(0, (4, 6)) is arrays.read(2, (4, 6)) is arrays.read(1, (6, 4)) is None
    arrays.write(1, (6, 4), np.full((6, 4), 7, np.uint8))
    assert np.array_equal(arrays.read(1, (6, 4)), np.full((6, 4), 7))
    assert arrays.read(1, (4, 6)) is None


def test_what_is_read_is_a_copy():
    arrays = SharedArrays(1, 2**30)
    arrays.write(0, (4, 6), whole(1, (4, 6)))
    arrays.read(0, (4, 6))[:] = 9
    assert np.array_equal(arrays.read(0, (4, 6)), whole(1, (4, 6)))


def test_what_does_not_fit_or_is_not_of_bytes_is_not_kept():
    arrays = SharedArrays(10, nbytes=10 * 2**16)
    arrays.write(0, (128, 128), whole(1, (128, 170)))  # 65,280 of 65,536 bytes
    arrays.write(1, (128, 128), whole(1, (128, 171)))
    arrays.write(2, (128, 128), np.ones((4, 4), np.int32))
    found = [arrays.read(k, (128, 128)) for k in range(3)]
    assert np.array_equal(found[0], whole(1, (128, 170)))
    assert [array.size for array in found[1:]] == [0, 0]  # so that nobody tries again
    arrays.write(1, (128, 128), whole(3, (128, 128)))
    assert np.array_equal(arrays.read(1, (128, 128)), whole(3, (128, 128)))
    tiny = SharedArrays(1_000_000, nbytes=2**20)  # not a byte for each
    tiny.write(999_999, (1, 1), whole(1, (1, 1)))
    assert tiny.read(999_999, (1, 1)).size == 0


def test_memory_is_taken_as_it_is_written():
    here = psutil.Process()
    before = here.memory_info().shared
    arrays = SharedArrays(100, 2**30)
    assert here.memory_info().shared - before < 2**20
    for number in range(100):
        arrays.write(number, (256, 256), whole(1, (256, 256)))
    assert 15e6 < here.memory_info().shared - before < 30e6
    del arrays
    assert here.memory_info().shared - before < 2**20


def alternate(arrays: SharedArrays, value: int) -> None:
    """Writes arrays of one size full of one value and reads what others left: never half of each."""
    sizes = [(64, 64), (96, 64)]
    for turn in range(4000):
        number, size = turn % 3, sizes[turn // 7 % 2]
        arrays.write(number, size, whole(value, size))
        found = arrays.read(number, size)
        if found is not None and (found.shape != (*size, 3) or found.min() != found.max()):
            sys.exit(1)


def test_processes_that_write_at_once_never_read_a_mixture():
    arrays = SharedArrays(3, 2**30)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=alternate, args=(arrays, value)) for value in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4


def hold(arrays: SharedArrays) -> None:
    with arrays._locked(0):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_process_that_is_killed_while_it_writes_blocks_nobody():
    arrays = SharedArrays(2, 2**20)
    context = multiprocessing.get_context("fork")
    holder = context.Process(target=hold, args=(arrays,), daemon=True)
    waiting = context.Process(target=arrays.write, args=(0, (4, 6), whole(1, (4, 6))), daemon=True)
    holder.start()
    try:
        while psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
    finally:
        holder.kill()
    waiting.join(20)
    assert waiting.exitcode == 0
    assert np.array_equal(arrays.read(0, (4, 6)), whole(1, (4, 6)))


MB = 2**20
NAMES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def machine(root: Path, groups: str, free: int = 900 * MB) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {free // 1024} kB\nHugePages_Total: 0\n")
    (root / "proc/self/cgroup").write_text(groups)


def group(root: Path, version: str, path: str, limit: object, used: int, files: int) -> None:
    folder = root / "sys/fs/cgroup" / version / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(NAMES[version][:2], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{NAMES[version][2]} {files}\nslab 3\n")


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_here_it_is_no_more_than_the_machine_has():
    found = free_bytes()
    assert 2**26 < found < 1.1 * psutil.virtual_memory().available


@pytest.mark.parametrize(("version", "line"), [("", "0::/jobs/7/step\n"), ("memory", "4:cpu,memory:/jobs/7/step\n")])
def test_the_tightest_of_the_groups_around_counts(tmp_path: Path, version: str, line: str):
    machine(tmp_path, f"2:devices:/\n{line}")
    assert free_bytes(tmp_path) == 900 * MB
    group(tmp_path, version, "jobs/7/step", "max" if version == "" else 2**63 - 4096, 100 * MB, 0)
    group(tmp_path, version, "jobs/7", 500 * MB, 300 * MB, 50 * MB)
    group(tmp_path, version, "jobs", 800 * MB, 300 * MB, 0)
    assert free_bytes(tmp_path) == 250 * MB
    group(tmp_path, version, "jobs", 400 * MB, 401 * MB, 0)
    assert free_bytes(tmp_path) == 0


def test_in_a_container_the_top_is_its_own_group(tmp_path: Path):
    machine(tmp_path, "4:memory:/docker/8f3a\n0::/\n")
    group(tmp_path, "memory", ".", 300 * MB, 100 * MB, 10 * MB)
    assert free_bytes(tmp_path) == 210 * MB


def test_a_system_that_says_nothing_is_not_known(tmp_path: Path):
    assert free_bytes(tmp_path) is None
