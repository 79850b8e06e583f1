"""Order, sharding and resuming, without a Trainer."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_finetune.data import ImageData
from lightning_finetune.data.batches.loader import BatchSampler, ImageLoader
from lightning_finetune.errors import DataError
from tests.data.images import fill

ROOT = Path(__file__).parents[3]


def samplers(items: int, batch_size: int, world_size: int, train: bool) -> list[BatchSampler]:
    options = {"train": train, "shuffle": train, "seed": 0, "world_size": world_size}
    return [BatchSampler(items, batch_size, lambda: (8, 8), rank=rank, **options) for rank in range(world_size)]


SHAPES = [(items, batch, world) for items in (3, 7, 8, 9, 64, 65) for batch in (1, 2, 8, 100) for world in (1, 2, 3)]


@pytest.mark.parametrize(("items", "batch_size", "world_size"), SHAPES)
def test_evaluation_sees_every_item_once_in_as_many_batches_on_each_process(items, batch_size, world_size):
    batches = [sampler.batches() for sampler in samplers(items, batch_size, world_size, train=False)]
    assert len({len(own) for own in batches}) == 1
    assert all(len(batch) > 0 for own in batches for batch in own)
    assert sorted(np.concatenate([batch for own in batches for batch in own])) == list(range(items))
    if batch_size > 1:
        assert max(len(batch) for own in batches for batch in own) <= batch_size


@pytest.mark.parametrize(("items", "batch_size", "world_size"), SHAPES)
def test_training_batches_of_all_processes_are_those_of_one(items, batch_size, world_size):
    ranks = [sampler.batches() for sampler in samplers(items, batch_size, world_size, train=True)]
    (single,) = samplers(items, batch_size * world_size, 1, train=True)
    assert len({len(own) for own in ranks}) == 1
    for k, whole in enumerate(single.batches()):
        assert sorted(np.concatenate([own[k] for own in ranks])) == sorted(whole)
    sizes = {len(batch) for own in ranks for batch in own}
    assert sizes == {batch_size} or len(single) == 1  # the rest is dropped, unless there is nothing else


def test_evaluation_in_one_process_is_in_order_with_full_batches():
    (sampler,) = samplers(10, 4, 1, train=False)
    assert [batch.tolist() for batch in sampler.batches()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_fewer_items_than_processes_is_refused():
    with pytest.raises(DataError, match="at least one image for each of the 3 processes"):
        samplers(2, 1, 3, train=False)


@pytest.fixture
def loader(insects: Path) -> ImageLoader:
    return ImageData.from_folder(insects, size=16, batch_size=4, num_workers=0).train_dataloader()


def indices(loader: ImageLoader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def test_nothing_is_read_before_the_first_batch_is_asked_for(loader: ImageLoader):
    batches = iter(loader)
    loader.sampler.set_epoch(3)
    expected = loader.sampler.batches()[0].tolist()
    assert next(batches)["index"].tolist() == expected


def test_a_state_continues_its_own_epoch_only_and_once(loader: ImageLoader):
    whole = indices(loader)
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    assert state == {"epoch": 0, "batch": 2, "left": 2, "seen": 8, "items": 19}
    loader.load_state_dict(state)
    assert indices(loader) == whole[2:]
    assert loader.state_dict() == {"epoch": 0, "batch": 4, "left": 0, "seen": 16, "items": 19}
    assert indices(loader) == whole
    loader.load_state_dict(state)
    loader.sampler.set_epoch(1)
    assert len(indices(loader)) == len(whole)


@given(
    items=st.integers(4, 90),
    before=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    after=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    part=st.floats(0, 1),
)
def test_a_state_leaves_the_same_items_to_other_processes_and_batch_sizes(items, before, after, part):
    def loaders(batch_size, world_size):
        return [
            ImageLoader(None, sampler, num_workers=0, pin_memory=False)
            for sampler in samplers(items, batch_size, world_size, train=True)
        ]

    def rest(loader):
        """What is left to it, without its images."""
        loader.sampler.seen = loader._seen(loader.state_dict())
        return loader.sampler.batches()

    one = loaders(*before)[0]
    made = int(part * (len(one) - 1))
    state = one._place(0, made)
    seen = [item for loader in loaders(*before) for batch in loader.sampler.batches()[:made] for item in batch]
    batches = []
    for loader in loaders(*after):
        loader.load_state_dict(state)
        batches.append(rest(loader))
        assert loader.behind(len(one)) == len(loader) - len(batches[-1])
    left = [item for of_rank in batches for batch in of_rank for item in batch]
    assert len(left) == len(set(left))
    assert len(set(seen) & set(left)) <= max(0, after[1] - (items - len(seen)))  # each process has to have one
    assert all(len(batch) for of_rank in batches for batch in of_rank)
    assert len({len(of_rank) for of_rank in batches}) == 1
    assert len(seen) + len(left) > items - after[0] * after[1]


def test_a_finished_epoch_is_not_continued(loader: ImageLoader):
    loader.load_state_dict({"epoch": 0, "batch": 4})
    assert len(indices(loader)) == len(loader) == 4


def test_a_loaded_state_is_kept_until_it_is_used(loader: ImageLoader):
    loader.load_state_dict({"epoch": 5, "batch": 1})
    assert loader.state_dict() == {"epoch": 5, "batch": 1}


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_takes_nothing_from_the_generator_that_the_model_draws_from(insects: Path, workers: int):
    loader = ImageData.from_folder(insects, size=16, batch_size=4, num_workers=workers).train_dataloader()
    before = torch.get_rng_state()
    indices(loader), indices(loader)
    assert torch.equal(torch.get_rng_state(), before)
    loader.close()


CODE = """
import sys, torch
from lightning_finetune import ImageData
data = ImageData.from_folder(sys.argv[1], size=448, batch_size=32, num_workers=4, augment="none")
alone = ImageData.from_folder(sys.argv[1], size=448, batch_size=32, num_workers=0, augment="none")
for one, other in zip(data.val_dataloader(), alone.val_dataloader(), strict=True):
    assert all(torch.equal(one[name], other[name]) for name in one)
print("equal", len(data.val_dataloader()))
"""


@pytest.mark.slow
def test_shared_memory_of_a_container_is_enough(tmp_path: Path):
    """Docker gives 64 MB; a batch of 32 images of 448 pixels is 19 MB, and four workers hold eight of them."""
    for name in ("ant", "bee"):
        fill(tmp_path / "train" / name, 1), fill(tmp_path / "valid" / name, 160)
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run([*mounted, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.endswith("equal 10\n"), done.stderr[-2000:]


def test_batches_are_the_same_where_no_memory_can_be_shared(insects: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    batches = [[*loader_of(insects, workers)] for workers in (2, 0)]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


def loader_of(insects: Path, workers: int) -> ImageLoader:
    data = ImageData.from_folder(insects, size=96, batch_size=4, num_workers=workers, augment="none")
    return data.train_dataloader()


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_vanish_during_a_run_are_named_at_once_in_one_sentence(insects: Path, tmp_path: Path, workers: int):
    loader = loader_of(shutil.copytree(insects, tmp_path / "own"), workers)
    files = [loader.images.images[row] for row in loader.images.rows[[1, 5, 9]]]
    for file in files:
        file.rename(file.with_suffix(".away"))
    with pytest.raises(DataError, match="Expected the images that were there when the run began; 3 are gone") as caught:
        list(loader)
    assert all(f"{file}: no such file." in str(caught.value) for file in files)
    assert "Traceback" not in str(caught.value)
    for file in files:
        file.with_suffix(".away").rename(file)
    loader.close()
    assert len([*loader]) == len(loader), "it goes on once they are back"
    loader.close()


def test_a_file_that_is_damaged_during_a_run_is_named(insects: Path, tmp_path: Path):
    loader = loader_of(shutil.copytree(insects, tmp_path / "own"), 1)
    file = loader.images.images[int(loader.images.rows[3])]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=f"^{file}: expected an image, but [^\n]*$"):
        list(loader)
    loader.close()
