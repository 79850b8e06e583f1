"""The notebooks of the lessons, executed from their scripts: `make notebooks`, or python examples/notebooks/build.py.

The scripts, in percent format, are the only source: jupytext reads them, nbclient runs them in the root of the
repository. Left out of what is kept are the pictures of cells tagged `photos`, which are not the project's to give on,
and all that goes to stderr, where libraries name the folders of the machine.
"""

import base64
import io
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageSequence

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LESSONS = ("sgd_primer", "lesson1_pets", "lesson3_satellite", "lesson3_camvid")
NOT_OURS = (
    "The picture is left out here, as the photos or masks in it are not the project's to give on. "
    "Run the cell to see it."
)
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
WIDTH, COLOURS = 800, 128  # of a picture, so that a notebook stays small


def main(names: list[str]) -> None:
    for name in names or LESSONS:
        notebook = jupytext.read(HERE.parent / f"{name}.py")
        notebook.metadata = nbformat.from_dict(KERNEL)
        NotebookClient(
            notebook, timeout=None, record_timing=False, resources={"metadata": {"path": str(ROOT)}}
        ).execute()
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"  # the same in every build
            if cell.cell_type == "code":
                cell.outputs = kept(cell)
        nbformat.write(notebook, HERE / f"{name}.ipynb")


def kept(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that may and need be seen."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in outputs:
        picture = output.get("data", {}).pop("image/png", None)
        if picture and "photos" in cell.metadata.get("tags", ()):
            output.data = {"text/plain": NOT_OURS}
        elif picture:
            kind, content = smaller(base64.b64decode(picture))
            output.data[kind] = base64.b64encode(content).decode()
    return outputs


def smaller(picture: bytes) -> tuple[str, bytes]:
    """A picture with fewer pixels, as a JPEG or as a PNG of few colours, whichever is smaller; a film stays a PNG."""
    image = Image.open(io.BytesIO(picture))
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    for frame in frames:
        frame.thumbnail((WIDTH, frame.height))
    palette = frames[0].quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3)  # rare colours too, as of a dot
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    film = {"save_all": True, "append_images": rest, "duration": image.info["duration"], "loop": 0} if rest else {}
    drawing, photo = io.BytesIO(), io.BytesIO()
    first.save(drawing, "PNG", optimize=True, **film)
    frames[0].save(photo, "JPEG", quality=85)
    found = [("image/png", drawing.getvalue()), ("image/jpeg", photo.getvalue())]
    return found[0] if rest else min(found, key=lambda one: len(one[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
