"""How do start-up, file checks, an epoch's own cost and memory grow with the number of images and classes?

    python benchmarks/growth.py IMAGES [--sizes 1000 10000 100000 1000000] [--classes 10 1000 10000]
        [--ways folder csv df lists tags] [--check 100000] [--out growth.json]

IMAGES holds some real images, of which small copies are linked under as many names as are needed (hard links, made in
a temporary folder and deleted again). Each line is a process of its own. Every image is listed, split and labelled; an
epoch's order is drawn; two workers look at the path and the target of every item, without decoding it. Files are read
once, as before training, up to ``--check`` of them. Memory is what comes on top of a list of a hundred images: of the
main process, by its resident set, the most while the list is made (peak), what it keeps, and the most while files are
read (reading); of the larger worker what it holds alone (USS) at the end of the epoch. Seconds of the CPU where
nothing is waited for, so that a busy machine changes little.

Needs psutil. Sizes of less than ten images a class are left out. The exponent is the slope of log(seconds) over
log(images), between the last two sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import csv
import gc
import itertools
import json
import math
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch.utils.data import Dataset

SMALL = 100
COPIES = 64
LINKS = 30_000  # of one file; ext4 holds at most 65,000
TIMES = {"list": "CPU s", "check": "CPU s", "order": "CPU s", "look": "s", "first0": "s", "first2": "s"}
SIZES = {"peak": "MB", "kept": "MB", "worker": "MB", "pickled": "MB", "reading": "MB"}
WAYS = ("folder", "csv", "df", "lists", "tags")


def main() -> None:
    """Measure every cell and print one table a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--check", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, help="used by this program itself: way, images, files to check")
    options = parser.parse_args()
    if options.child:
        way, count, check = options.child
        print(json.dumps(measure(options.images, way, int(count), int(check))))
        return
    cells = [cell for cell in itertools.product(options.classes, options.sizes) if cell[1] >= 10 * cell[0]]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        sources = shrink(options.images, Path(name, "sources"))
        for classes, count in cells:
            root = Path(name, "data")
            for folder, number in ((root, count), (root.with_name("small"), SMALL)):
                fill(sources, folder, number, min(classes, number // 10))
            for way in options.ways:
                rows.append({"way": way, "classes": classes, "images": count, **child(root, way, count, options.check)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            for folder in (root, root.with_name("small")):
                shutil.rmtree(folder)
    for way in options.ways:
        report(way, [row for row in rows if row["way"] == way])
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def machine() -> str:
    """What the numbers were measured on."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} {platform.machine()} cores, {memory:.0f} GiB, Python {python}, torch {torch.__version__}"


# -- files -------------------------------------------------------------------------------------------------------------


def shrink(images: Path, folder: Path) -> list[Path]:
    """Some of the images at 64 pixels."""
    folder.mkdir()
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:COPIES]
    for number, path in enumerate(found):
        with Image.open(path) as image:
            image.convert("RGB").resize((64, 64)).save(folder / f"{number}.jpg")
    return sorted(folder.iterdir())


def fill(sources: list[Path], root: Path, count: int, classes: int) -> None:
    """``train`` and ``valid`` with class folders, one image in five to validate, and tables of labels and of tags."""
    with (root.parent / f"{root.name}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "tags"])
        for number in range(count):
            label, split = number % classes, "valid" if number // classes % 5 == 4 else "train"
            name = Path(split, f"class_{label:05}", f"image_{number:07}.jpg")
            if number < 5 * classes:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(source(sources, number), root / name)
            tags = {(label + step * number) % classes for step in (0, 1, 3)}
            table.writerow([name, f"class_{label:05}", " ".join(f"tag_{tag:05}" for tag in sorted(tags))])


def source(sources: list[Path], number: int) -> Path:
    """A file to link to, a new copy of it where it has enough links."""
    path = sources[number % len(sources)]
    turn = number // len(sources) // LINKS
    if not turn:
        return path
    copy = path.with_name(f"{path.stem}-{turn}.jpg")
    if not copy.exists():
        shutil.copy(path, copy)
    return copy


# -- one process -------------------------------------------------------------------------------------------------------


def child(root: Path, way: str, count: int, check: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, str(root), "--child", way, str(count), str(check)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} {count}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(root: Path, way: str, count: int, check: int) -> dict[str, float]:
    """Seconds and megabytes of one list."""
    torch.set_num_threads(1)
    _, worker_before = look(data_of(root.with_name("small"), way)())  # imports, caches and a worker's own memory
    make = data_of(root, way)
    found: dict[str, float] = {}
    gc.collect()
    before = resident()
    with Peak(found, "peak"):
        data = timed(found, "list", make, time.process_time)
    gc.collect()
    found["kept"] = (resident() - before) / 1e6
    found["pickled"] = len(pickle.dumps(data.dataset(0))) / 1e6
    sampler = data.train_dataloader().sampler
    timed(found, "order", lambda: sum(1 for _ in sampler), time.process_time)
    for workers in (0, 2):
        data.num_workers = workers
        timed(found, f"first{workers}", lambda: next(iter(data.train_dataloader())))
        data.teardown("fit")
    found["look"], worker = look(data)
    found["worker"] = worker - worker_before
    if count <= check:
        with Peak(found, "reading"):
            timed(found, "check", lambda: data.setup("fit"), time.process_time)
    return {name: round(value, 4) for name, value in found.items()}


def data_of(root: Path, way: str) -> Any:
    """A function that makes the data module; what a user would hold anyway is made before."""
    import pandas as pd

    from lightning_finetune import ImageData

    options: dict[str, Any] = {"size": 64, "batch_size": 64, "num_workers": 2}
    table = root.parent / f"{root.name}.csv"
    if way == "folder":
        return lambda: ImageData.from_folder(root, **options)
    if way == "csv":
        return lambda: ImageData.from_csv(root, table, **options)
    if way == "tags":
        return lambda: ImageData.from_csv(root, table, label_col="tags", label_delim=" ", **options)
    frame = pd.read_csv(table, dtype=str)
    if way == "df":
        return lambda: ImageData.from_df(frame, root, **options)
    files, labels = frame["image"].tolist(), frame["label"].tolist()
    return lambda: ImageData.from_lists(files, labels, root, **options)


class Looks(Dataset[dict[str, torch.Tensor]]):
    """Looks at path and target of every item of a batch, and decodes none."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __getitem__(self, key: Any) -> dict[str, torch.Tensor]:
        rows = self.images.rows[key.items]
        seen = sum(len(str(self.images.images[row])) for row in rows) + len(self.images.targets[rows])
        return {"seen": torch.tensor(seen)}


def look(data: Any) -> tuple[float, float]:
    """Seconds of an epoch in two workers that only look; megabytes that the larger of them holds alone at its end."""
    from lightning_finetune.data.batches.loader import ImageLoader

    loader = ImageLoader(Looks(data.dataset(0)), data.train_dataloader().sampler, num_workers=2, pin_memory=False)  # type: ignore[arg-type]
    start = time.perf_counter()
    for _ in loader:
        pass
    seconds = time.perf_counter() - start
    workers = [process.memory_full_info().uss / 1e6 for process in psutil.Process().children()]
    loader.close()
    return seconds, max(workers)


def timed(found: dict[str, float], name: str, call: Any, clock: Callable[[], float] = time.perf_counter) -> Any:
    """What ``call`` gives; its seconds go to ``found``."""
    start = clock()
    given = call()
    found[name] = clock() - start
    return given


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


class Peak:
    """How many megabytes the resident set of this process grew at most, looked at all the time."""

    def __init__(self, found: dict[str, float], name: str) -> None:
        self.found, self.name = found, name
        self.ended = threading.Event()

    def __enter__(self) -> None:
        self.before = self.most = resident()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        self.found[self.name] = (self.most - self.before) / 1e6

    def watch(self) -> None:
        """Until it ends."""
        while not self.ended.wait(0.01):
            self.most = max(self.most, resident())


# -- report ------------------------------------------------------------------------------------------------------------


def report(way: str, rows: list[dict[str, Any]]) -> None:
    """A table in Markdown, with the exponents of each number of classes under its lines."""
    columns = {**TIMES, **SIZES}
    print(f"\n{way}\n\n| classes | images | " + " | ".join(f"{name} ({unit})" for name, unit in columns.items()) + " |")
    print("|---|---|" + "---|" * len(columns))
    for classes, group in itertools.groupby(rows, key=lambda row: row["classes"]):
        lines = list(group)
        for row in lines:
            print(f"| {classes} | {row['images']} | " + " | ".join(cells(row, columns)) + " |")
        if len(lines) > 1:
            slopes = [f"{slope:.2f}" if slope is not None else "" for slope in exponents(lines, columns)]
            print(f"| {classes} | exponent | " + " | ".join(slopes) + " |")


def cells(row: dict[str, Any], columns: dict[str, str]) -> Iterator[str]:
    """The numbers of a row, three digits each."""
    for name in columns:
        yield f"{row[name]:.3g}" if name in row else ""


def exponents(rows: list[dict[str, Any]], columns: dict[str, str]) -> Iterator[float | None]:
    """The slope of each time between the last two sizes that have it."""
    for name, unit in columns.items():
        known = [row for row in rows if row.get(name, 0) > 0][-2:]
        if unit == "MB" or len(known) < 2:
            yield None
        else:
            small, large = known
            yield math.log(large[name] / small[name]) / math.log(large["images"] / small["images"])


if __name__ == "__main__":
    main()
