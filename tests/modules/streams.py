"""Streams of libraries that are well kept, on local files: rows of three colours, each with its number in a corner."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ["red", "green", "blue"]
SHARD = 8


def rows(count: int) -> Iterator[tuple[int, bytes, int]]:
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 80, (40, 40, 3)).astype(np.uint8)
        noise[..., number % 3] += 120
        noise[:8, :8] = (number, number, number)
        encoded = io.BytesIO()
        Image.fromarray(noise).save(encoded, "PNG")
        yield number, encoded.getvalue(), number % 3


def number_of(image: Any) -> list[int]:
    """The numbers of rows, by the corners of their images ``[B, 3, h, w]`` of bytes."""
    return image[:, 0, 1, 1].tolist()


def _pair(row: tuple[int, bytes, int]) -> dict[str, Any]:
    return {"image": row[1], "label": row[2]}


def litdata_files(root: Path, count: int) -> None:
    import litdata

    litdata.optimize(fn=_pair, inputs=list(rows(count)), output_dir=str(root), chunk_size=SHARD, num_workers=1)


def litdata_stream(root: Path, shuffle: bool = True) -> Any:
    import litdata

    return litdata.StreamingDataset(str(root), shuffle=shuffle, seed=1)


def table(count: int) -> Any:
    """A map-style dataset of Hugging Face."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Picture

    columns = {"image": [{"bytes": file, "path": None} for _, file, _ in rows(count)]}
    columns |= {"label": [label for *_, label in rows(count)]}
    return Dataset.from_dict(columns, features=Features({"image": Picture(), "label": ClassLabel(names=NAMES)}))


def hugging_files(root: Path, count: int) -> None:
    root.mkdir(parents=True)
    whole, shards = table(count), max(2, count // SHARD // 2 * 2)
    for shard in range(shards):
        whole.shard(shards, shard, contiguous=True).to_parquet(root / f"{shard:03}.parquet")


def hugging_stream(root: Path, shuffle: bool = True) -> Any:
    from datasets import load_dataset

    files = [str(file) for file in sorted(root.glob("*.parquet"))]
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=str(root / "cache"))
    return stream.shuffle(seed=3, buffer_size=1, max_buffer_input_shards=1) if shuffle else stream


def web_files(root: Path, count: int) -> None:
    import webdataset

    root.mkdir(parents=True)
    with webdataset.ShardWriter(str(root / "%04d.tar"), maxcount=SHARD, verbose=0) as writer:
        for number, encoded, label in rows(count):
            writer.write({"__key__": f"{number:05}", "png": encoded, "cls": label})


def web_stream(root: Path, shuffle: bool = True) -> Any:
    import webdataset

    files = [str(file) for file in sorted(root.glob("*.tar"))]
    options = {"shardshuffle": 100 if shuffle else False, "detshuffle": shuffle, "seed": 3}
    stream = webdataset.WebDataset(files, nodesplitter=webdataset.split_by_node, **options)
    return stream.compose(webdataset.detshuffle(16, seed=4)) if shuffle else stream


LIBRARIES = {
    "litdata": (litdata_files, litdata_stream),
    "datasets": (hugging_files, hugging_stream),
    "webdataset": (web_files, web_stream),
}
