"""A parser whose errors are short and name the word that was probably meant, and that reads old configurations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_finetune.cli.messages import say_error
from lightning_finetune.errors import did_you_mean

_CLASS = re.compile(r"class_path '([\w.]+)'")
_ARGUMENT = re.compile(r"Option '(\w+)' is not accepted")
_OPTION = re.compile(r"(?:[oO]ption '|arguments: --)([\w.]+)")
_NAME = re.compile(r"dot import path string: (\w+)$", re.MULTILINE)


_KEY = re.compile(r'Parser key "([\w.]+)"')
_GIVEN = re.compile(r"(?:Given|Got) value: (.+?)\.?$", re.MULTILINE)
_KINDS = re.compile(r"(?:Subtypes: \[(.+)\]|Expected a (.+?)\.)\s", re.MULTILINE)
_PLAIN = (
    (r"<class '([\w.]+)'>", r"\1"),
    (r"(?:[a-z_]+\.)+(?=[A-Z])", ""),
    (r"NoneType", "null"),
    (r"Callable\[\.\.\., Any\]", "a function"),
    (r"\bLiteral\[(.+?)\](?=$|,)", r"\1"),
)
"""Python's words for types, and what is read more easily."""

_WRITTEN = {
    "fine_tune.sizes": '"[64, 128]"',
    "fine_tune.phases": '"[{epochs: 1, train: head}, {epochs: 3, train: all}]"',
}
"""How an option is written whose value is easily mistyped."""


class ShortErrorsParser(LightningArgumentParser):
    """Lightning's parser, but a wrong word does not print all options before it says which word was wrong.

    Attributes:
        subjects: Names of arguments that are a class; another class than the default does not take its defaults.
    """

    subjects: tuple[str, ...] = ()

    @override
    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """The defaults; where a parse begins with them, unchecked, only the names of the default classes.

        With their arguments too, those that another class also has (``weights``, ``lr``) would be taken for given.
        """
        defaults = super().get_defaults(*args, **kwargs)
        if any((*args, *kwargs.values())):
            for name in self.subjects:
                defaults[name].pop("init_args", None)
        return defaults

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # one that jsonargparse tries a class with
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        text = in_one_line(re.sub(r"\n\s*\n", "\n", message).strip())
        say_error(f"{parser.prog.replace(' [options]', '')}: error: {text.rstrip('.')}.{hint(message, parser)}")
        self.exit(2)


def in_one_line(message: str) -> str:
    """A value that fits none of its types, without the search through all of them."""
    keys, given, kinds = _KEY.findall(message), _GIVEN.findall(message), _KINDS.search(message)
    if not (keys and given and kinds):
        return message
    name, kind = ".".join(keys), kinds[1] or kinds[2]
    for pattern, plain in _PLAIN:
        kind = re.sub(pattern, plain, kind)
    if "[" not in kind:
        kind = " or ".join(part for part in kind.rpartition(", ") if part not in ("", ", "))
    written = f" Write it as --{name} {_WRITTEN[name]}" if name in _WRITTEN else ""
    return f"--{name}: expected {kind.replace(', null', ' or null')}, got {given[-1]}.{written}"


def hint(message: str, parser: Any) -> str:
    """What an error message of jsonargparse leaves unsaid: the nearest word that would have been right."""
    known = list(vars(parser.get_defaults().as_flat()))
    classes = _CLASS.findall(message)
    if (match := _ARGUMENT.search(message)) and classes:
        return did_you_mean(match[1], _arguments(classes[-1]))
    if match := _OPTION.search(message):
        return did_you_mean(match[1], [*known, *(name.rpartition(".")[0] for name in known)])
    if match := _NAME.search(message):
        return did_you_mean(match[1], _subclasses(LightningModule) | _subclasses(LightningDataModule))
    if "required: root" in message:
        return " Give the folder of your images: --data.root FOLDER"
    return ""


def _arguments(class_path: str) -> Iterable[str]:
    """Parameter names of a class, or of a function in one, by its import path."""
    module, _, name = class_path.rpartition(".")
    try:
        owner: Any = import_module(module)
    except ModuleNotFoundError:
        module, _, outer = module.rpartition(".")
        owner = getattr(import_module(module), outer)
    return inspect.signature(getattr(owner, name)).parameters


def _subclasses(kind: type) -> set[str]:
    children: list[type] = kind.__subclasses__()
    return {kind.__name__}.union(*(_subclasses(child) for child in children))


def take_old_configurations() -> None:
    """Let this process's parsers read configurations of before; names of modules that moved need no help."""
    set_loader("yaml", _load, (yaml.YAMLError,))


_LOAD: Callable[[str], Any] = get_loader("yaml")  # jsonargparse's own


def _load(text: str) -> Any:
    content = _LOAD(text)
    if isinstance(content, dict):
        for options in [content, *content.values()]:  # they lie under a subcommand's name, or under none
            fine_tune = options.get("fine_tune") if isinstance(options, dict) else None
            if isinstance(fine_tune, dict) and "feature_cache" in fine_tune:
                del fine_tune["feature_cache"]
                options["fine_tune"] = {"recipe": "lessons", **fine_tune}  # the only one while there was a cache
                rank_zero_warn(
                    "`fine_tune.feature_cache` is left out, which an earlier version knew: frozen layers run in every "
                    "epoch. Delete its line."
                )
    return content
