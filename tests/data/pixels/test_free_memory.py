"""Free memory as /proc and the control groups of both versions tell it."""

import sys
from pathlib import Path

import psutil
import pytest

from lightning_finetune.data.pixels.free_memory import free_bytes

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
