"""The notebooks as they are kept: what their scripts say, run to the end, with nothing that is not to be given on."""

import base64
import csv
import io
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

jupytext = pytest.importorskip("jupytext", reason="needs the group `notebooks` of pyproject.toml")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.read_text().startswith("# %%"))
each_lesson = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")


def kept(script: Path):
    """The notebook of a script, as it lies in the repository."""
    return nbformat.read(ROOT / f"examples/notebooks/{script.stem}.ipynb", as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list:
    return [output for cell in code(notebook) for output in cell.outputs]


def said(notebook) -> str:
    """All that its outputs say in words."""
    parts = [output.get("text", "") for output in outputs(notebook)]
    parts += [
        str(part)
        for output in outputs(notebook)
        for kind, part in output.get("data", {}).items()
        if "image" not in kind
    ]
    return "\n".join(parts)


def test_every_lesson_has_its_notebook() -> None:
    names = {path.stem for path in (ROOT / "examples/notebooks").glob("*.ipynb")}
    assert (
        names
        == {path.stem for path in SCRIPTS}
        == {"sgd_primer", "lesson1_pets", "lesson3_camvid", "lesson3_satellite"}
    )


@each_lesson
def test_it_says_what_its_script_says(script: Path) -> None:
    source = [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in kept(script).cells] == source


@each_lesson
def test_it_was_run_from_top_to_bottom_without_an_error(script: Path) -> None:
    notebook = kept(script)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    kinds = [kind for output in outputs(notebook) for kind in output.get("data", {})]
    assert sum(kind in ("image/png", "image/jpeg") for kind in kinds) >= 2


@each_lesson
def test_it_knows_nothing_of_the_machine_and_is_small(script: Path) -> None:
    text = said(kept(script))
    assert re.findall(r"(?<![\w<.:/])/\w[\w.-]*/[\w./-]*", text) == [], "paths from the root of a file system"
    assert not re.search(r"site-packages|\.\./|[A-Z]:\\", text)
    assert (ROOT / f"examples/notebooks/{script.stem}.ipynb").stat().st_size < 700_000


def test_the_films_of_the_primer_move() -> None:
    pictures = [
        output.data.get("image/png") for output in outputs(kept(ROOT / "examples/sgd_primer.py")) if "data" in output
    ]
    opened = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in pictures if picture]
    assert [getattr(image, "n_frames", 1) for image in opened] == [1, 51, 1, 50]


def test_photos_of_others_are_left_out_and_said_to_be() -> None:
    marked = [cell for script in SCRIPTS for cell in code(kept(script)) if "photos" in cell.metadata.get("tags", ())]
    assert len(marked) == 3, "the batch, the top losses and the masks of CamVid"
    for cell in marked:
        (output,) = cell.outputs
        assert list(output.data) == ["text/plain"]
        assert "left out" in output.data["text/plain"]


def run(script: Path, folder: Path, parameters: str = "", **environment: str) -> str:
    """Execute a lesson in ``folder``, with a cell put behind the one tagged `parameters`; what it says."""
    notebook = jupytext.read(script)
    marked = [number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    for number in marked:
        notebook.cells.insert(number + 1, nbformat.v4.new_code_cell(parameters))
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **environment})  # an error in a cell is an error here
    return said(notebook)


def measured(folder: Path, column: str) -> list[float]:
    """A column of the only run's metrics, one number an epoch."""
    (table,) = folder.glob("runs/*/version_0/metrics.csv")
    with table.open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.mark.slow
def test_the_primer_runs_as_a_notebook(tmp_path: Path) -> None:
    text = run(ROOT / "examples/sgd_primer.py", tmp_path)
    for found in ("found by hand", "found in Lightning"):
        slope, intercept = map(float, re.search(rf"{found}: tensor\(\[(.+?), (.+?)\]\)", text).groups())
        assert abs(slope - 3) < 0.1
        assert abs(intercept - 2.25) < 0.1


@pytest.mark.slow
@needs_data
def test_lesson_1_runs_on_a_few_images(tmp_path: Path) -> None:
    """Ants and bees under names as the pets have them; half of the guesses of an untrained head are wrong."""
    (tmp_path / "images").mkdir()
    for label in ("ants", "bees"):
        for number, path in enumerate(sorted((DATA / "ants_bees/train" / label).iterdir())):
            shutil.copy(path, tmp_path / "images" / f"some_{label}_{number}.jpg")
    short = "SIZE, BATCH, EPOCHS = 128, 16, (3, 1)"
    text = run(ROOT / "examples/lesson1_pets.py", tmp_path, short, PETS=str(tmp_path / "images"))
    assert "some_ants" in text
    assert "head (1 of 9)" in text
    assert (tmp_path / "runs/lesson1/version_0/lr_range_phase_2.png").is_file()
    assert min(measured(tmp_path, "val_error_rate")) < 0.3


@pytest.mark.slow
@needs_data
def test_lesson_3_runs_on_a_few_tiles(tmp_path: Path) -> None:
    with (DATA / "satellite/labels.csv").open() as file:
        rows = list(csv.DictReader(file))[::6]
    (tmp_path / "images").symlink_to((DATA / "satellite/images").resolve())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    short = "SMALL, LARGE, BATCH, EPOCHS = 64, 96, 8, (1, 1, 1, 1)"
    text = run(ROOT / "examples/lesson3_satellite.py", tmp_path, short, SATELLITE=str(tmp_path))
    assert "64 px" in text
    assert "96 px" in text
    scores = measured(tmp_path, "val_map")
    assert scores[-1] > scores[0] + 0.05


@pytest.mark.slow
@needs_data
def test_lesson_3_runs_on_a_few_frames(tmp_path: Path) -> None:
    for split, count in (("train", 48), ("val", 12)):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            for path in sorted((DATA / "camvid" / split / kind).iterdir())[:count]:
                (tmp_path / split / kind / path.name).symlink_to(path.resolve())
    shutil.copy(DATA / "camvid/codes.txt", tmp_path)
    short = "SMALL, LARGE, BATCH, EPOCHS = (64, 96), (96, 128), 4, (1, 1, 1, 1)"
    text = run(ROOT / "examples/lesson3_camvid.py", tmp_path, short, CAMVID=str(tmp_path))
    assert "decoder to head" in text
    assert measured(tmp_path, "val_pixel_accuracy")[-1] > 0.6
