"""Nothing outside ``tasks/`` asks which task it has: what differs between tasks is methods of theirs."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from lightning_finetune.tasks import BaseTask

PACKAGE = Path(__file__).parents[2] / "lightning_finetune"
EXPORTS = PACKAGE / "__init__.py"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "tasks" not in path.parents and path != EXPORTS]
KINDS = {task.kind for task in BaseTask.known().values()}
OF_A_TASK = {"kind", "output", "judged_by", "target_key"}
SHAPES = {"ndim", "dim"}


def nodes(path: Path, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind)]


def compared(path: Path) -> set[object]:
    """Constants that something is compared with, or chosen by."""
    parts = [part for node in nodes(path, ast.Compare) for part in (node.left, *node.comparators)]
    parts += [key for node in nodes(path, ast.Dict) for key in node.keys if key is not None]
    parts += [node.value for node in nodes(path, ast.MatchValue)]
    return {node.value for part in parts for node in ast.walk(part) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_task_is_told_apart_by_its_class(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    known = tuple(BaseTask.known().values())
    classes = [value for value in vars(import_module(module)).values() if isinstance(value, type)]
    assert not [value for value in classes if issubclass(value, known)]
    words = [getattr(node, "id", getattr(node, "attr", "")) for node in nodes(path, (ast.Name, ast.Attribute))]
    imported = [alias.name for node in nodes(path, (ast.Import, ast.ImportFrom)) for alias in node.names]
    assert not {*words, *imported} & set(BaseTask.known())


@pytest.mark.parametrize(
    "path", [path for path in FILES if PACKAGE / "data" not in path.parents], ids=lambda path: path.name
)
def test_no_task_is_told_apart_by_a_word_or_by_the_shape_of_what_it_says(path: Path) -> None:
    assert not compared(path) & KINDS
    for node in nodes(path, ast.Compare):
        asked = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        assert not asked & OF_A_TASK or "outcome" in ast.unparse(node), ast.unparse(node)
        assert not asked & SHAPES or PACKAGE / "engine" in path.parents, ast.unparse(node)
