import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import lightning_finetune

ROOT = Path(__file__).parents[1]


def python(*args: str | Path, cwd: Path = ROOT) -> str:
    return subprocess.run([sys.executable, *args], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_every_public_name_is_there() -> None:
    for name in lightning_finetune.__all__:
        assert getattr(lightning_finetune, name) is not None
    assert set(lightning_finetune.__all__) <= set(dir(lightning_finetune))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FineTuna"):
        _ = lightning_finetune.FineTuna


def test_type_checkers_see_the_same_names() -> None:
    head = (ROOT / "lightning_finetune/__init__.py").read_text().partition("__all__ = [")[0]
    homes = [import_module(name) for name in re.findall(r"from ([\w.]+) import \*", head)]
    for name in {*lightning_finetune.__all__} - {"__version__"}:
        held = [vars(home)[name] for home in homes if name in getattr(home, "__all__", vars(home))]
        assert getattr(lightning_finetune, name) in held, name


def test_importing_the_package_loads_neither_torch_nor_lightning() -> None:
    loaded = python("-c", "import lightning_finetune, sys; print(*sys.modules)").split()
    assert not {"torch", "lightning", "timm", "matplotlib"} & set(loaded)


def test_engines_do_not_need_lightning() -> None:
    folder = ROOT / "lightning_finetune"
    files = [path.relative_to(ROOT) for name in ("engine", "show") for path in (folder / name).rglob("*.py")]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    loaded = python("-c", "import sys\nfor name in sys.argv[1:]: __import__(name)\nprint(*sys.modules)", *names)
    assert "lightning" not in loaded.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is published: from the source archive, not from the folder."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_once_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lightning_finetune").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == own
    assert set(names) >= {
        f"lightning_finetune/{name}"
        for name in ("py.typed", "show/report/page.html", "show/report/parts.html", "show/report/style.css")
    }
    assert all(
        name.startswith(("lightning_finetune/", f"lightning_finetune-{lightning_finetune.__version__}"))
        for name in names
    )


@pytest.mark.slow
def test_the_wheel_imports_where_nothing_else_of_the_project_is(wheel: Path, tmp_path: Path) -> None:
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel)
    code = (
        "import sys; sys.path.insert(0, 'site'); import lightning_finetune as f; print(f.__file__); f.FineTune; f.load"
    )
    assert python("-c", code, cwd=tmp_path).startswith(str(tmp_path / "site"))
