import shlex
import subprocess

import pytest
import torch

from lightning_finetune.show.report.environment import command, commit, hide_secrets, versions


def as_a_shell_reads(typed: str) -> list[str]:
    words = subprocess.run(["sh", "-c", f"printf '%s\\0' {typed}"], check=True, capture_output=True, text=True).stdout
    return words.split("\0")[:-1] if typed else []


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/venv/bin/python", "/venv/bin/lightning-finetune", "fit"], "lightning-finetune fit"),
        (["/venv/bin/python3", "-m", "lightning_finetune", "fit"], "python3 -m lightning_finetune fit"),
        (
            ["python", "train.py", "--root", "my photos; rm -rf $HOME"],
            "python train.py --root 'my photos; rm -rf $HOME'",
        ),
        ([], ""),
    ],
)
def test_the_command_can_be_typed_again(words: list[str], typed: str):
    assert as_a_shell_reads(command(words)) == shlex.split(typed)


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["--logger.api_key=abc=def", "--x"], "'--logger.api_key=***' --x"),
        (["--logger.API_KEY", "abc", "--x"], "--logger.API_KEY '***' --x"),
        (['--logger={"password": "abc", "b": 1}'], """'--logger={"password":***'"""),
        (["--hf_token", "--x"], "--hf_token --x"),
        (["--model.tokenizer=bpe", "--max_tokens", "8"], "--model.tokenizer=bpe --max_tokens 8"),
    ],
)
def test_the_command_keeps_secrets(words: list[str], typed: str):
    assert as_a_shell_reads(command(["python", *words])) == shlex.split(f"python {typed}")


def test_a_configuration_keeps_secrets_and_nothing_else():
    given = "trainer:\n  logger:\n  - api_key: abc\n    WANDB_TOKEN: 'a b'\n    token: null\nseed: 1\n"
    kept = "trainer:\n  logger:\n  - api_key: ***\n    WANDB_TOKEN: ***\n    token: null\nseed: 1\n"
    assert hide_secrets(given) == kept


def test_versions_are_those_that_run():
    assert versions()["torch"] == torch.__version__.partition("+")[0]


def test_the_commit_and_whether_the_code_is_it(tmp_path):
    def git(*words: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", tmp_path, *settings, *words], check=True, capture_output=True, text=True
        ).stdout

    assert commit(tmp_path) == ""
    git("init")
    assert commit(tmp_path) == "", "there is none yet"
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-m", "first")
    assert commit(tmp_path) == git("rev-parse", "HEAD").strip()
    (tmp_path / "a.py").write_text("2")
    assert commit(tmp_path).endswith("with changes that are not committed")
