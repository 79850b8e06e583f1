"""The table of examples."""

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_in_the_table_and_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+?)\)", (EXAMPLES / "README.md").read_text())
    local = {link for link in links if not link.startswith("http")}
    assert [link for link in local if not (EXAMPLES / link).exists()] == []
    files = {
        path.relative_to(EXAMPLES).as_posix()
        for ending in ("py", "yaml", "sh", "ipynb")
        for path in EXAMPLES.rglob(f"*.{ending}")
    }
    assert files - local == {"notebooks/build.py"}
