"""The help texts list what the real parser has, with its defaults, on one screen."""

import inspect
import re
from dataclasses import asdict, is_dataclass

import pytest
import yaml

from lightning_finetune.cli.diagnose import diagnose_file
from lightning_finetune.cli.files import export_checkpoint, predict_files
from lightning_finetune.cli.help import COMMANDS, OVERVIEW, options
from lightning_finetune.cli.sweep import sweep
from tests import forking

GROUPS = ("data", "model", "fine_tune", "log_predictions", "epoch_table", "report", "best", "last")
"""Of our own options; the text lists a few of the Trainer's too."""


PARSED = ("fit", "plan", "lr_find", "show_batch", "validate", "test", "interpret")
END = "# end of one configuration"
PRINTED = f"""
import sys
from contextlib import suppress
from lightning_finetune.cli.front import main

root, *commands = sys.argv[1:]
for command in commands:
    sys.argv[1:] = [command, "--data.root", root, "--print_config"]
    with suppress(SystemExit):
        main()
    print("{END}")
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By command, names and defaults of the real parser, as one would type them."""
    texts = forking.run("-c", PRINTED, tmp_path_factory.mktemp("images"), *PARSED).stdout.split(END)
    return {command: flat(yaml.safe_load(text)) for command, text in zip(PARSED, texts, strict=False)}


def flat(tree: dict, prefix: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for name, value in tree.items():
        path = prefix if name == "init_args" else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, dict) and name != "optimizer":
            leaves |= flat(value, path)
        else:
            leaves[path] = yaml.safe_dump(value).split("\n")[0]
    return leaves


def test_names_and_defaults_are_those_of_the_parser(parsed: dict[str, dict[str, str]]) -> None:
    for command, real in parsed.items():
        shown = options(COMMANDS[command])
        for name, default in shown.items():
            if name not in ("model", "config", "trainer.logger"):
                assert name in real, f"{command} has no {name}"
                assert default in ("", real[name]) or default.isupper(), (command, name, default, real[name])
        ours = {name for name in real if name.partition(".")[0] in GROUPS and not name.endswith("class_path")}
        missing = {name for name in ours - {"model.num_classes"} if name not in shown}
        if command != "fit":
            missing = {name for name in missing if not name.startswith("fine_tune.")}
        assert not missing, f"{command} --help does not list {missing}"


@pytest.mark.parametrize(
    ("command", "function"),
    [("predict", predict_files), ("export", export_checkpoint), ("diagnose", diagnose_file), ("sweep", sweep)],
)
def test_commands_without_a_trainer_list_their_arguments(command: str, function) -> None:
    real: dict[str, str] = {}
    for one in inspect.signature(function).parameters.values():
        group = asdict(one.default) if is_dataclass(one.default) else None
        given = {one.name: one.default} if group is None else {f"{one.name}.{name}": group[name] for name in group}
        real |= {
            name: "" if value is one.empty else str(value).replace("None", "null") for name, value in given.items()
        }
    shown = {name: "" if default.isupper() else default for name, default in options(COMMANDS[command]).items()}
    assert shown == ({} if command == "diagnose" else real)


def test_each_text_fits_a_terminal_of_80_columns_and_fit_one_screen() -> None:
    for text in (OVERVIEW, *COMMANDS.values()):
        assert max(map(len, text.splitlines())) <= 80, max(text.splitlines(), key=len)
    assert len(COMMANDS["fit"].splitlines()) <= 60
    assert {name.replace("_", "-") for name in COMMANDS} <= {*re.findall(r"[a-z-]+", OVERVIEW)}
