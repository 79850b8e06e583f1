"""Processes of their own that have imported the package already, for tests that are not about how Python starts.

A server, ``python -m tests.forking``, imports once and forks for each request. What it forks is a process like any
other, with its own memory, signals, folder, environment and end; only six seconds of imports are saved. What a test is
about that happens while Python starts (encodings, what is imported when) needs :mod:`subprocess`.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = (
    "tests.data.runs",
    "tests.run.plateaus",
    "tests.runs",
    "tests.tasks.shared.asked",
    "tests.tasks.shared.spawned",
)


def run(
    *words: object, cwd: Path = ROOT, timeout: int = 400, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What :func:`subprocess.run` does with ``python`` and these words; its output is text.

    Raises:
        TimeoutError: It took longer than ``timeout`` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}" for name in ("out", "err")]
        request = {"words": [*map(str, words)], "cwd": str(cwd), "timeout": timeout, "files": files}
        print(json.dumps({**request, "env": env or dict(os.environ)}), file=_server().stdin, flush=True)
        code = int(_server().stdout.readline())
        said = [Path(file).read_text() for file in files]
    if code == -signal.SIGALRM:
        raise TimeoutError(f"{words}: not done after {timeout} s. {said}")
    return subprocess.CompletedProcess(words, code, *said)


@cache
def _server() -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # a process that has threads cannot be forked
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "-m", "tests.forking"], cwd=ROOT, env=env, **pipes)
    atexit.register(server.communicate)
    return server


def _serve() -> list[str]:
    """Answers each request with what its process ended with; returns within a process that was forked, its words."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_module("lightning_finetune.cli.command_line")
    for name in PROGRAMS:
        import_module(name)
        del sys.modules[name]  # so that it can be run as one
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.close()
            return _settle(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    sys.exit()


def _settle(words: list[str], cwd: str, timeout: int, files: list[str], env: dict[str, str]) -> list[str]:
    for number, path in enumerate((os.devnull, *files)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.alarm(timeout)
    return words


def _execute(words: list[str]) -> None:
    """As ``python`` does: ``-m`` a module, ``-c`` some code, or a file."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _execute(_serve())
