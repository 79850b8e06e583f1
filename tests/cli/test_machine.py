"""The command in places such as containers are: another encoding, no home, full and closed folders, killed runs."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from lightning_finetune.cli.loggers import stay_offline_without_key
from lightning_finetune.cli.machine import in_a_sentence
from tests.cli.launching import QUIET, SHORT, SMALL

ROOT = Path(__file__).parents[2]
STRANGER = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
"""A user that the system does not know, who may do no more than others."""

PROCESS = """
import multiprocessing.util, os, signal, sys, tempfile
from lightning_finetune.cli.machine import use_own_temporary_folder
use_own_temporary_folder()
print(multiprocessing.util.get_temp_dir(), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "child":
    import subprocess
    subprocess.run([sys.executable, "-c", sys.argv[2], "ends", ""], check=True)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process whose temporary files lie in ``tmp_path``."""

    def begin(how: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", PROCESS, how, PROCESS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=ROOT, **pipes)

    return begin


def test_what_a_killed_run_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(start, tmp_path):
    (tmp_path / "lf-notes").mkdir()  # somebody's own
    living = start("waits")
    place = Path(living.stdout.readline().strip())
    killed = start("killed")
    left = Path(killed.communicate(timeout=60)[0].strip())
    assert killed.returncode == -signal.SIGKILL
    assert left.is_dir()
    assert start("ends").wait(60) == 0
    assert not left.parent.exists()
    assert place.is_dir()
    living.communicate("", timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["lf-notes"]


def test_a_process_that_a_run_starts_uses_its_folder(start, tmp_path):
    process = start("child")
    own, childs = map(Path, process.communicate(timeout=60)[0].split())
    assert process.returncode == 0
    assert own.parent == childs.parent
    assert own.parent.parent == tmp_path
    assert not list(tmp_path.iterdir())


def error_of(do) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of whatever kind
        do()
    return caught.value


def fill(path: str) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"0")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_errors_of_files_are_one_sentence_with_a_way_out(tmp_path):
    assert "cannot be written: No space left on device. Make room" in in_a_sentence(error_of(lambda: fill("/dev/full")))
    (tmp_path / "file").touch()
    blocked = in_a_sentence(error_of((tmp_path / "file/folder").mkdir))
    assert f"{tmp_path}/file/folder: Not a directory" in blocked
    assert "Permission denied" in in_a_sentence(PermissionError(errno.EACCES, "Permission denied", "logs"))
    failing = in_a_sentence(OSError(errno.ESTALE, "Stale file handle", "logs"))
    assert failing.startswith("logs cannot be read or written: Stale file handle. A disk or network fails")


def test_other_errors_keep_their_traceback():
    gone = FileNotFoundError(errno.ENOENT, "gone", "a")
    for error in (RuntimeError("a DataLoader worker"), gone, torch.OutOfMemoryError(), OSError()):
        assert in_a_sentence(error) is None


class Dies(torch.utils.data.Dataset):
    """Kills the process that reads it."""

    def __len__(self):
        return 4

    def __getitem__(self, place):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_of_somebody_elses_loader_that_is_killed_is_one_sentence():
    said = in_a_sentence(error_of(lambda: next(iter(torch.utils.data.DataLoader(Dies(), num_workers=1)))))
    assert said.startswith("A process that loads data is gone: DataLoader worker (pid")
    assert said.endswith("and resume from the last checkpoint.")
    assert "\n" not in said


def test_errors_of_wandb_are_one_sentence():
    wandb = pytest.importorskip("wandb")
    project = in_a_sentence(error_of(lambda: wandb.Settings(project="a/b")))
    assert "Weights & Biases: " in project
    assert "a/b" in project
    assert "\n" not in project
    assert in_a_sentence(error_of(lambda: wandb.Settings(mode="bogus"))).startswith("Weights & Biases: mode: ")


@pytest.mark.parametrize(
    ("key", "given", "mode"),
    [("", "", "offline"), ("", "disabled", "disabled"), ("", None, "offline"), ("0" * 40, "", None)],
)
def test_an_empty_mode_is_none_and_without_a_key_it_is_offline(monkeypatch, tmp_path, key, given, mode):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if given is not None:
        monkeypatch.setenv("WANDB_MODE", given)
    stay_offline_without_key()
    assert os.environ.get("WANDB_MODE") == mode


def test_a_name_that_the_terminal_cannot_show_is_escaped():
    code = "from lightning_finetune.cli import machine; machine.escape_what_cannot_be_shown(); print('käfer \\udcff')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "k\\xe4fer \\udcff\n"


@pytest.fixture
def beetles(photos: Path, tmp_path: Path) -> Path:
    """Photos of three classes, the names of two of which are not ASCII, or not even UTF-8."""
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    for split in ("train", "valid"):
        (root / split / "red").rename(root / split / "käfer")
        (root / split / "blue").rename(os.fsdecode(os.fsencode(root / split) + b"/b\xfcgel"))  # Latin-1
    return root


def stranger(words: list[str], folder: Path, temporary: Path) -> subprocess.CompletedProcess[bytes]:
    """The command of a user without entry or home, in the C locale, with temporary files on another file system."""
    if shutil.which("unshare") is None or subprocess.run([*STRANGER, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    command = [*STRANGER, sys.executable, "-m", "lightning_finetune", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=300)


@pytest.fixture
def elsewhere():
    """A folder for temporary files on another file system, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


@pytest.mark.slow
def test_a_run_in_a_container(beetles: Path, tmp_path: Path, elsewhere: Path):
    done = stranger(["fit", "--data.root", str(beetles), *SMALL, *SHORT, *QUIET], tmp_path, elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert b"was not written" not in done.stderr
    run = tmp_path / "lightning_logs/version_0"
    assert "k&auml;fer" in (run / "report.html").read_text() or "käfer" in (run / "report.html").read_text()
    best = str(run / "checkpoints/best.ckpt")
    words = ["predict", "--ckpt_path", best, "--images", str(beetles / "valid"), "--out", "said"]
    done = stranger(words, tmp_path, elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "said/predictions.csv").read_text(encoding="utf-8").count("\n") == 13
    assert not list(elsewhere.glob("lf-*"))


@pytest.mark.slow
def test_a_folder_that_is_read_only_is_named_in_one_line(photos: Path, tmp_path: Path, elsewhere: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    done = stranger(["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET], closed, elsewhere)
    said = io.StringIO(done.stderr.decode()).readlines()
    assert done.returncode == 1
    assert said[-1].startswith("lightning-finetune: error: lightning_logs: Permission denied. Choose another folder")
    assert not any("Traceback" in line for line in said)
    shutil.rmtree(closed)
