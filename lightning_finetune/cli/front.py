"""The command's entry: what can be answered without torch and Lightning is answered at once."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from lightning_finetune.__about__ import __version__
from lightning_finetune.cli.help import COMMANDS, OVERVIEW, options
from lightning_finetune.cli.machine import escape_what_cannot_be_shown, in_a_sentence, use_own_temporary_folder
from lightning_finetune.cli.messages import end, say_error
from lightning_finetune.errors import FinetuneError, no_folder

_MEANT = {"train": "fit", "finetune": "fit", "fine_tune": "fit", "evaluate": "validate", "find_lr": "lr_find"}
"""Common words for our commands."""

_WITH_DATA = ("fit", "plan", "lr_find", "show_batch", "validate", "test", "interpret")
"""Commands that take a folder of images, and the options of data and model."""

_OWN = {
    "export": "lightning_finetune.cli.files.export_checkpoint",
    "diagnose": "lightning_finetune.cli.diagnose.diagnose_file",
    "predict": "lightning_finetune.cli.files.predict_files",
    "sweep": "lightning_finetune.cli.sweep.sweep",
}
"""Commands that need no Trainer."""

_SAID_ELSEWHERE = ("trainer", "c", "print_config", "help", "h", "version", "log_confusion", "plot_run", "diagnosis")
"""Options, and groups of them, that Lightning's parser knows and no text of ours lists in full."""


def main() -> None:
    """Entry of the console script; an error of this package ends it with its message alone."""
    escape_what_cannot_be_shown()
    # Pillow's word on large images, which are read all the same; what is far larger is refused.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    if (text := help_of(sys.argv[1:])) is not None:
        print(text, end="")  # noqa: T201
        return
    sys.argv[1:] = words = list(as_parsed(sys.argv[1:]))
    if error := error_of(words):
        say_error(f"lightning-finetune: error: {error}")
        sys.exit(2)
    sys.path.append(str(Path.cwd()))  # where a configuration's own functions and modules lie, as for `python -m`
    use_own_temporary_folder()
    if command := own_command(words):
        _run(command, words)
    else:
        from lightning_finetune.cli import command_line  # only now, as it loads all of Lightning

        command_line.main()


def _run(command: Callable[..., None], words: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    try:
        auto_cli(command, args=[*words[1:]], as_positional=words[0] == "diagnose")
    except FinetuneError as error:
        end(str(error))
    except Exception as error:
        if (said := in_a_sentence(error)) is None:
            raise
        end(said)


def own_command(words: Sequence[str]) -> Callable[..., None] | None:
    """The function behind a command that needs no Trainer; what it needs is loaded only if it is asked for."""
    if words[0] not in _OWN or _is_lightnings(words):
        return None
    module, _, function = _OWN[words[0]].rpartition(".")
    command: Callable[..., None] = getattr(import_module(module), function)
    return command


def _is_lightnings(words: Sequence[str]) -> bool:
    """Whether this is Lightning's ``predict``, which takes a model and data, and not ours of files."""
    return words[0] == "predict" and not any(word.startswith("--images") for word in words)


def help_of(words: Sequence[str]) -> str | None:
    """The text that is asked for in place of a run; None if there is none, or only the real parser has it."""
    if not words or words[0] in ("-h", "--help"):
        return OVERVIEW
    if words[0] == "--version":
        return f"lightning-finetune {__version__}\n"
    return COMMANDS.get(words[0].replace("-", "_")) if {"-h", "--help"} & set(words) else None


def as_parsed(words: Sequence[str]) -> Iterator[str]:
    """What is typed, as the parser takes it: ``lr-find FOLDER --unfrozen`` is ``lr_find --data.root=FOLDER …``."""
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else "--"
        if place == 0 and not word.startswith("-"):
            yield word.replace("-", "_")
        elif place == 1 and not word.startswith("-") and words[0].replace("-", "_") in _WITH_DATA:
            yield f"--data.root={word}"
        elif word in ("--unfrozen", "--overwrite") and after.startswith("--"):
            yield f"{word}=true"  # jsonargparse wants a value
        else:
            yield "--help" if word == "--help-all" else word


def error_of(words: Sequence[str]) -> str | None:
    """What is wrong as far as it can be seen without loading a class: a command, an option, the folder."""
    command = words[0]
    if command.startswith("-"):
        return None
    if command not in COMMANDS:
        meant = _MEANT.get(command) or next(iter(difflib.get_close_matches(command, COMMANDS, n=1)), None)
        hint = f" Did you mean {meant.replace('_', '-')!r}?" if meant else ""
        return f"{command!r} is not a command.{hint} `lightning-finetune --help` lists them."
    if _is_lightnings(words):
        return None
    known = options(COMMANDS[command])
    named = [(word[2:].split("=")[0].rstrip("+").replace(".init_args", ""), word) for word in words if word[:2] == "--"]
    elsewhere = {*_SAID_ELSEWHERE, *_other_classes(words)}
    for name, word in named:
        if name.partition(".")[0] not in elsewhere and not _is_known(name, known):
            return f"{command.replace('_', '-')} has no option {word.split('=')[0]}.{_nearest(name, known)}"
    return _wrong_folder(words, is_known="data" not in elsewhere)


def _other_classes(words: Sequence[str]) -> set[str]:
    """Groups of options of a class that the command line names, or that a configuration may name."""
    if any(word.split("=")[0] in ("-c", "--config") for word in words):
        return {"data", "model"}
    return {
        word[2:].split("=")[0].removesuffix(".class_path")
        for word in words
        if word.split("=")[0] in ("--data", "--model", "--data.class_path", "--model.class_path")
    }


def _is_known(name: str, known: dict[str, str]) -> bool:
    """Also what lies deeper, as in ``model.optimizer.lr``, a whole group, and its help."""
    parts = name.split(".")
    deeper = any(".".join(parts[:count]) in known for count in range(1, len(parts) + 1))
    return deeper or parts[-1] == "help" or any(option.startswith(f"{name}.") for option in known)


def _nearest(name: str, known: dict[str, str]) -> str:
    """The option that was probably meant: ``--epochs`` is ``--fine_tune.epochs``."""
    by_end = {option.rpartition(".")[2]: option for option in reversed(list(known))}
    end = next(iter(difflib.get_close_matches(name.rpartition(".")[2], by_end, n=1, cutoff=0.75)), None)
    close = by_end[end] if end else next(iter(difflib.get_close_matches(name, known, n=1)), None)
    return f" Did you mean --{close}?" if close else ""


def _wrong_folder(words: Sequence[str], is_known: bool) -> str | None:
    pairs = zip(words, [*words[1:], ""], strict=True)
    roots = [word.partition("=")[2] or after for word, after in pairs if word.split("=")[0] == "--data.root"]
    if len(roots) > 1:
        return "expected one folder of images, got FOLDER and --data.root. Leave one out."
    missing = is_known and roots and not Path(roots[0]).exists()
    return str(no_folder(roots[0])) if missing else None
