"""Streams of LitData, Hugging Face and WebDataset: each row once an epoch, also where a run is stopped amid a shard."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import IterableDataset

from lightning_finetune import ImageData, ImageStream
from lightning_finetune.errors import DataError, UnsupportedError
from tests.modules.published import NEEDS
from tests.modules.streams import LIBRARIES, NAMES, hugging_stream, table

for package in (*LIBRARIES, "torchdata"):
    pytest.importorskip(package, reason=NEEDS)

from tests.modules.stream_runs import arguments, fit  # noqa: E402  # where the libraries are

TRAIN, VALID = 60, 16


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    for name, (write, _) in LIBRARIES.items():
        write(root / name / "train", TRAIN)
        write(root / name / "valid", VALID)
    return root


def seen(found: dict, epoch: int) -> list[int]:
    return [row for at, rows in found["train"] if at == epoch for row in rows]


OURS = [(name, options) for name in LIBRARIES for options in [(), ("--workers", 2)]]
FOREIGN = [
    ("datasets", ("--foreign",)),
    ("datasets", ("--foreign", "--accumulate", 2)),
    ("litdata", ("--foreign",)),
]


@pytest.mark.parametrize(("name", "options"), [*OURS, *FOREIGN])
def test_each_row_once_an_epoch_and_a_stop_amid_a_shard_changes_nothing(tmp_path, files, name, options):
    given = (name, files / name)
    whole = fit(arguments(*given, tmp_path, *options))
    assert [sorted(seen(whole, epoch)) for epoch in (0, 1)] == [list(range(TRAIN))] * 2
    assert seen(whole, 0) != seen(whole, 1)  # shuffled anew
    assert sorted(whole["valid"]) == sorted([*range(VALID)] * 2)
    batches = len(whole["train"]) // 2
    if "--foreign" not in options:  # a foreign module gets its size on the device
        assert whole["sizes"] == [32] * batches + [64] * batches
    per_step = 2 if "--accumulate" in options else 1
    steps = -(-batches // per_step)  # an epoch; its last may be of fewer batches
    for stop, seen_so_far in ((3, 3 * per_step), (steps + 3, batches + 3 * per_step)):
        resumed = fit(arguments(*given, tmp_path / str(stop), *options, "--resume", tmp_path / f"step={stop}.ckpt"))
        assert resumed["train"] == whole["train"][seen_so_far:]
        assert resumed["weights"] == whole["weights"]


def in_two_processes(out: Path, *options) -> list[dict]:
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "tests.modules.stream_runs", *map(str, options)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, ()) for name in LIBRARIES), ("datasets", ("--foreign",)), ("litdata", ("--foreign",))],
)
def test_two_processes_share_the_rows_and_go_on_each_at_its_place(tmp_path, files, name, options):
    given = (name, files / name)
    whole = in_two_processes(tmp_path / "whole", *given, tmp_path / "whole", *options)
    for epoch in (0, 1):
        of_each = [seen(one, epoch) for one in whole]
        assert len(of_each[0]) == len(set(of_each[0]))
        assert not set(of_each[0]) & set(of_each[1])
        assert len(of_each[0]) + len(of_each[1]) >= TRAIN - 8  # the longer of two unequal shares is cut
    assert whole[0]["weights"] == whole[1]["weights"]
    last = tmp_path / "whole/step=3.ckpt"
    rest = in_two_processes(tmp_path / "rest", *given, tmp_path / "rest", *options, "--resume", last)
    assert [one["train"] for one in rest] == [one["train"][3:] for one in whole]
    with pytest.raises(UnsupportedError, match="within an epoch of 2 processes"):
        fit(arguments(*given, tmp_path / "one", *options, "--resume", last))


def test_a_table_of_hugging_face_is_read_by_position_and_its_targets_without_its_images():
    data = ImageData.from_dataset(table(30), table(6), size=32, batch_size=8, num_workers=0)
    data.setup("fit")
    assert data.classes == NAMES
    batch = next(iter(data.train_dataloader()))
    assert [*batch["image"].shape] == [8, 3, 32, 32]
    assert batch["label"].tolist() == [index % 3 for index in batch["index"].tolist()]


def test_what_is_no_stream_is_said(files):
    stream = hugging_stream(files / "datasets/train")
    with pytest.raises(DataError, match="for which ImageStream is"):
        ImageData.from_dataset(stream)
    with pytest.raises(DataError, match="valid: expected a stream"):
        ImageStream(stream, table(3))
    with pytest.raises(DataError, match="got the keys image, kind"):
        ImageStream(stream.rename_column("label", "kind"), stream)

    class TakesAnything(IterableDataset):
        def __iter__(self):
            return iter([(np.zeros((8, 8, 3), np.uint8), 0)])

        def state_dict(self, *args, **kwargs): ...

    class AsksItsLoader(TakesAnything):
        def state_dict(self, num_samples, from_beginning): ...

    with pytest.raises(DataError, match=r"train: .* whose `state_dict` needs arguments \(AsksItsLoader\)"):
        ImageStream(AsksItsLoader(), stream)
    assert ImageStream(TakesAnything(), TakesAnything(), NAMES).classes == NAMES
    assert ImageStream(stream, stream).classes == NAMES


@pytest.mark.slow
def test_memory_stays_flat_while_a_stream_passes():
    from benchmarks.stream_memory import measure

    found = measure(100_000)
    assert max(found[5:]) - min(found[5:]) < 10  # MB; 100,000 images of 8 x 8 pixels alone are 19


def test_the_page_on_streams_says_what_works(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    _, _, hugging, web, *_ = (block.split("```")[0] for block in page.split("```py\n")[1:])
    for code, name in ((hugging, "datasets"), (web, "webdataset")):
        ends = {"datasets": "*.parquet", "webdataset": "{0000..0001}.tar"}[name]
        code = code.replace("s3://BUCKET/train/*.parquet", f"{files}/{name}/train/{ends}")
        code = code.replace("s3://BUCKET/valid/*.parquet", f"{files}/{name}/valid/{ends}")
        code = code.replace("pipe:aws s3 cp s3://BUCKET/train/{0000..0099}.tar -", f"{files}/{name}/train/{ends}")
        code = code.replace("valid.tar", f"{files}/{name}/valid/0000.tar").replace('["cat", "dog"]', str(NAMES))
        names: dict = {}
        exec(code, names)
        assert next(iter(names["data"].val_dataloader()))["image"].shape[1:] == (3, 224, 224)
