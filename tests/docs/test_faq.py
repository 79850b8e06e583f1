"""Every message that the package can raise or warn with is explained, and every explained one exists."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lightning_finetune import errors

ROOT = Path(__file__).parents[2]
FAQ = ROOT / "docs" / "faq.md"
OF_OTHERS = "## Of others, met often"
"""From here on the messages are those of other libraries."""

RAISED = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
WARNED = {"rank_zero_warn", "warn", "warning"}


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / "lightning_finetune").rglob("*.py"))}


def template(node: ast.AST) -> str:
    """A string as it stands in the code, with an ellipsis where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "…"


def messages() -> Iterator[str]:
    """What errors of this package and warnings are given."""
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                text = template(node.args[0])
                if name in RAISED | WARNED and re.search(r"\w", text):
                    yield text


@cache
def literals() -> frozenset[str]:
    """Every string in the code that is no docstring."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree)]
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    return frozenset(template(node) for node in nodes if node not in docstrings) - {"…"}


def quotes(text: str) -> list[str]:
    """The messages in the first column of the tables."""
    cells = re.findall(r"^\| (`.+?) \| ", text, flags=re.M)
    return [span.strip() for cell in cells for _, span in re.findall(r"(`+)(.+?)\1(?=<br>|$)", cell)]


def fits(quote: str, message: str) -> bool:
    """Whether the fixed parts of ``quote`` stand in ``message``, in order, the first at its start unless left open."""
    first, *others = quote.split("…")
    if not message.startswith(first):
        return False
    place = len(first)
    for part in others:
        found = message.find(part.strip(), place)
        if found < 0:
            return False
        place = found + len(part.strip())
    return True


OURS = quotes(FAQ.read_text().partition(OF_OTHERS)[0])


def test_what_is_explained_is_in_the_code():
    assert [quote for quote in OURS if not any(fits(f"…{quote}", text) for text in literals())] == []


def test_every_message_is_explained():
    missing = [message for message in messages() if not any(fits(quote, message) for quote in OURS)]
    assert missing == [], "add rows to docs/faq.md"


def test_no_quote_explains_everything():
    """One that is too open would hide what is missing."""
    everything = set(messages())
    wide = {quote: sum(fits(quote, message) for message in everything) for quote in OURS}
    assert {quote: count for quote, count in wide.items() if count > 4} == {}
