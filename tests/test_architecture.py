"""The tree says what docs/architecture.md says: imports go down, none in a circle, and what is private stays so."""

import ast
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.loops import _FitLoop, _TrainingEpochLoop
from torch.optim.lr_scheduler import SequentialLR
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_finetune"
ADAPTER = "lightning_finetune.run.trainer"
"""The module whose docstring says what it uses of the private parts of Lightning and torch, and what for."""

PRIVATE_OF_OTHERS = {
    ADAPTER: {"_data_fetcher", "_on_before_batch_transfer", "_schedulers", "_should_check_val_fx"},
    "lightning_finetune.engine.objects.graph": {"_iterator"},
}
"""All that is used of them, by module."""

THEIRS = ("lightning", "torch", "torchmetrics")
BY_NAME = ("getattr", "setattr", "hasattr", "delattr")
DOCUMENTED = {"_fields", "_replace", "_asdict"}  # of named tuples, which keep underscores from fields' names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> str:
    """What of the table of layers a module belongs to; the two that only start the package belong to none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each module that is imported from, with what is taken; also within functions, and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((str(node.module), alias.name) for alias in node.names)


def edges() -> Iterator[tuple[str, str]]:
    """Which module imports which, of this package."""
    for module, tree in modules().items():
        for source, name in imports(tree):
            inner = f"{source}.{name}"
            if source.partition(".")[0] == PACKAGE.name:
                yield module, inner if inner in modules() else source


def layers() -> list[str]:
    """From top to bottom, as the documentation says."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## Layers")[2].partition("\n## ")[0]
    return [cell.removesuffix("/").removesuffix(".py") for cell in re.findall(r"^\| `([\w./]+)` \|", table, flags=re.M)]


def test_the_table_of_layers_names_every_package():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {*layers()} == folders | {"errors"}
    beside = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert beside == {"__init__.py", "__about__.py", "__main__.py", "errors.py", "py.typed"}


def test_no_import_goes_up():
    order = layers()
    known = [(one, other) for one, other in edges() if layer_of(one) in order and layer_of(other) in order]
    assert len(known) > 300
    assert [pair for pair in known if order.index(layer_of(pair[0])) > order.index(layer_of(pair[1]))] == []


def test_no_imports_form_a_circle():
    """Whether a module may be imported before those that it needs, and they before theirs."""
    needs: dict[str, set[str]] = {module: set() for module in modules()}
    for one, other in edges():
        if other in needs and not other.endswith("__init__") and other != PACKAGE.name:
            needs[one].add(other)
    TopologicalSorter(needs).prepare()  # raises CycleError, which names them


def test_no_two_modules_are_a_letter_apart():
    """Figures and tests apart, which are named after what they draw and what they test."""
    names = [path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__" and path.parent.name != "figures"]
    folders = [path.parent.name for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    alike = Counter(name.replace("_", "").removesuffix("s") for name in [*names, *folders])
    assert [name for name, count in alike.items() if count > 1] == []


def test_nothing_imports_the_package_itself_but_its_version():
    found = {other for one, other in edges() if layer_of(one) in layers() and layer_of(other) not in layers()}
    assert found <= {"lightning_finetune.__about__"}


def test_engines_and_what_is_shown_do_not_import_lightning():
    plain = {"engine", "show", "errors"}
    found = {
        module for module, tree in modules().items() for source, _ in imports(tree) if "lightning" in source.split(".")
    }
    assert {module for module in found if layer_of(module) in plain} == set()


def test_no_private_module_or_name_is_imported():
    names = [
        (module, source, name)
        for module, tree in modules().items()
        for source, name in imports(tree)
        if any(map(is_private, [*source.split("."), name]))
    ]
    assert names == []


def is_own(node: ast.Attribute) -> bool:
    """Whether an attribute is of ``self``, of the class, or of what it inherits."""
    owner = node.value
    if isinstance(owner, ast.Call):
        return isinstance(owner.func, ast.Name) and owner.func.id == "super"
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def defined(tree: ast.Module) -> set[str]:
    """Private names that the classes of a module define."""
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    fields = {
        node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")
    }
    written = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return methods | fields | {node.attr for node in written if is_own(node)}


def private_text(node: ast.expr) -> set[str]:
    """The text, where it is one and the name of something private."""
    text = getattr(node, "value", "")
    return {text} if isinstance(text, str) and is_private(text) else set()


def foreign_parts(tree: ast.Module) -> set[str]:
    """Private attributes of objects of other modules, by name, by :func:`getattr`, or as a key."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
            found |= private_text(node.args[1])
        elif isinstance(node, ast.Subscript):  # of an object's `__dict__`
            found |= private_text(node.slice)
    return found - defined(tree)


@pytest.mark.parametrize("module", modules())
def test_no_private_attribute_of_another_module_is_used(module):
    assert foreign_parts(modules()[module]) == PRIVATE_OF_OTHERS.get(module, set())


def test_what_is_used_of_others_is_there_and_said():
    """A later Lightning may not have it; where it is used, the docstring says what for."""
    adapter = importlib.import_module(ADAPTER)
    assert all(name in adapter.__doc__ for name in PRIVATE_OF_OTHERS[ADAPTER])
    assert "self._data_fetcher" in inspect.getsource(_FitLoop)
    assert callable(LightningModule._on_before_batch_transfer)
    assert callable(_TrainingEpochLoop._should_check_val_fx)
    assert "self._schedulers" in inspect.getsource(SequentialLR)
    assert "self._iterator" in inspect.getsource(DataLoader)


@cache
def privates(cls: type) -> set[str]:
    """Private names that the code of a class defines or reads of itself."""
    return set(re.findall(r"(?:\bself\.|\bdef )(_[a-z]\w*)", inspect.getsource(cls)))


def classes() -> Iterator[type]:
    for module in modules().keys() - {ADAPTER}:
        found = vars(importlib.import_module(module)).values()
        yield from (one for one in found if isinstance(one, type) and one.__module__ == module)


def test_no_class_uses_or_replaces_what_is_private_in_its_foreign_base():
    """``self._x`` is ours only where no base of Lightning or torch has such an ``_x``."""
    wrong = {}
    for cls in classes():
        bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in THEIRS]
        if bases and (shared := privates(cls) & set().union(*map(privates, bases))):
            wrong[cls.__name__] = shared
    assert wrong == {}


def test_a_protocol_that_is_asked_for_has_methods_and_properties_alone():
    """From Python 3.12 on ``isinstance`` looks at the class alone, where a module has none of its submodules."""
    asked = [one for one in classes() if getattr(one, "_is_runtime_protocol", False)]
    assert asked
    assert {one.__name__: inspect.get_annotations(one) for one in asked} == {one.__name__: {} for one in asked}


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("trainer._loops", {"_loops"}),
        ("getattr(trainer, '_loops')", {"_loops"}),
        ("vars(trainer)['_loops'] = 1", {"_loops"}),
        ("class A:\n def f(self): return self._x", set()),
        ("class A:\n def __init__(self): self._x = 1\n def __eq__(self, other): return other._x == 1", set()),
        ("class A:\n def f(self): return self.trainer._x", {"_x"}),
        ("x.__class__", set()),
    ],
)
def test_the_rule_sees_what_it_is_for(code, parts):
    assert foreign_parts(ast.parse(code)) == parts


def test_tests_import_no_test_module_and_no_conftest():
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for source, name in imports(ast.parse(path.read_text())):
            last = f"{source}.{name}".split(".")
            if source.startswith("tests") and any(part.startswith("test_") or part == "conftest" for part in last):
                found.append((path.name, source, name))
    assert found == []
