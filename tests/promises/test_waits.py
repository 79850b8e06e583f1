"""No code of this package waits for the device on the way of a step, as far as that is known without a GPU.

A Trainer trains on torch's device "meta", which has shapes and no numbers: whoever reads a number, or brings a tensor
to the host, is noted, and gets some answer. On a GPU ``benchmarks/gpu_smoke.py`` looks for the same.
"""

import traceback
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torchvision.transforms import v2

import lightning_finetune
from lightning_finetune import FineTune, ImageData, Phase, callbacks, tasks
from lightning_finetune.cli.progress_line import ProgressLine
from lightning_finetune.engine.resize_batch import resize_batch

OURS, THEIRS = Path(lightning_finetune.__file__).parent, Path(pl.__file__).parents[1]
COUNT, BATCH, CLASSES = 16, 4, 3
SCALAR, TO, COPY = torch.ops.aten._local_scalar_dense, torch.ops.aten._to_copy, torch.ops.aten.copy_
PICK = torch.ops.aten.index
SAME = {torch.ops.aten.equal, torch.ops.aten.allclose}
COUNTS = {torch.ops.aten.bincount, torch.ops.aten._unique2, torch.ops.aten.nonzero}


class Waits(TorchDispatchMode):
    """Notes what waits for the device, by where the run is, with the innermost line of this package or of Lightning.

    Attributes:
        where: To be set.
        notes: Lines of this package.
        lightning: Lines of Lightning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where: tuple | None = None
        self.notes: dict[tuple, list[str]] = {}
        self.lightning: dict[tuple, list[str]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        is_there = any(tensor.is_meta for tensor in tensors)
        if packet is SCALAR and is_there:
            return self.note("reads", False if tensors[0].dtype == torch.bool else -1)
        if packet in SAME and is_there:
            return self.note("compares", False)
        if is_there and (packet in COUNTS or (packet is PICK and is_mask(args[1]))):
            return self.note("counts", counted(func, args, kwargs))
        if packet is TO and is_there and kwargs.get("device") == torch.device("cpu"):
            return self.note("brings here", torch.zeros_like(args[0], device="cpu"))
        if packet is COPY and is_there and args[0].device.type == "cpu":
            return self.note("brings here", args[0])
        goes_there = packet is TO and not is_there and kwargs.get("device") == torch.device("meta")
        if goes_there and not kwargs.get("non_blocking"):
            self.note("sends and waits", None)
        return func(*args, **kwargs)

    def note(self, what, answer):
        for frame in reversed(traceback.extract_stack()):
            for folder, notes in ((THEIRS, self.lightning), (OURS, self.notes)):
                if Path(frame.filename).is_relative_to(folder):
                    line = f"{Path(frame.filename).relative_to(folder)}:{frame.lineno} {what}: {frame.line}"
                    notes.setdefault(self.where, []).append(line)
                    return answer
        return answer


def is_mask(indices) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def counted(func, args, kwargs):
    """What counts gives a shape that depends on the numbers: here that of noughts."""
    here = tree_map_only(torch.Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), args)
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), func(*here, **kwargs))


class Where(pl.Callback):
    """Tells where the run is: in its first step, which checks its targets, within the steps of an epoch, at whose end
    what was kept is read, or in a validation."""

    def __init__(self, waits: Waits) -> None:
        self.waits, self.steps = waits, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1
        is_last = batch_idx == trainer.num_training_batches - 1
        step = ("first",) if self.steps == 1 else ("steps", trainer.current_epoch)
        self.waits.where = ("end",) if is_last else step

    def on_validation_batch_start(self, trainer, *_):
        self.waits.where = ("validation", trainer.current_epoch)

    def on_validation_epoch_end(self, *_):
        self.waits.where = ("end",)


class Device(CPUAccelerator):
    def setup_device(self, device) -> None: ...


class There(SingleDeviceStrategy):
    """On the device "meta", from which nothing comes back at the end."""

    def teardown(self) -> None: ...


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    """Images with masks, for training and for validation."""
    root = tmp_path_factory.mktemp("streets")
    random = np.random.default_rng(0)
    for split, count in (("train", COUNT), ("valid", 2 * BATCH)):
        for kind, shape, most in (("images", (32, 32, 3), 256), ("masks", (32, 32), CLASSES)):
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, most, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f"{number:02}.png")
    (root / "codes.txt").write_text("road\nsky\ncar\n")
    return root


def data_of(root: Path, kind: str, **options):
    options = {"size": 32, "batch_size": BATCH, "num_workers": 0, **options}
    if kind == "masks":
        return ImageData.from_folder(root, masks="masks", codes="codes.txt", **options)
    files = sorted(root.glob("*/images/*.png"))
    if kind == "numbers":
        table = pd.DataFrame({"image": map(str, files), "number": range(len(files))})
        return ImageData.from_df(table, "/", numbers="number", valid_pct=0.25, **options)
    labels = [
        ("a", "b", "c")[k % CLASSES] if kind == "classes" else ("a b", "b", "c")[k % CLASSES] for k in range(len(files))
    ]
    delim = {"label_delim": " "} if kind == "labels" else {}
    return ImageData.from_lists(files, labels, valid_pct=0.25, **delim, **options)


TASKS = {
    "classes": lambda: tasks.ImageClassifier("test_resnet", num_classes=CLASSES, weights=False),
    "labels": lambda: tasks.MultiLabelClassifier("test_resnet", num_classes=CLASSES, weights=False),
    "numbers": lambda: tasks.ImageRegressor("test_resnet", num_outputs=1, weights=False),
    "masks": lambda: tasks.UNetSegmenter(
        backbone="resnet18", num_classes=CLASSES, weights=False, ignore_index=2, loss={"ce": 1, "dice": 1, "lovasz": 1}
    ),
}
CASES = {
    "classes": ("classes", {}),
    "labels": ("labels", {"augment": "satellite"}),
    "numbers": ("numbers", {}),
    "masks": ("masks", {}),
    "mixup": ("classes", {"mix": "mixup"}),
    "cutmix": ("classes", {"mix": "cutmix"}),
    "somebody's transform": ("classes", {"augment": v2.RandomHorizontalFlip()}),
}


def of_the_command() -> list[pl.Callback]:
    kinds = ("EpochTable", "LogConfusion", "LogPredictions", "PlotRun", "RunReport", "TrainingDiagnosis")
    return [getattr(callbacks, kind)() for kind in kinds]


def train(root, folder, kind, settings=None, *others, **options) -> tuple[Waits, Where]:
    """Three epochs of a phase, so that a second validation is not the last of a phase, with all of the command."""
    waits, task = Waits(), TASKS[kind]()
    where = Where(waits)
    trainer = pl.Trainer(
        accelerator=Device(),
        strategy=There(torch.device("meta")),
        precision="bf16-mixed",
        callbacks=[FineTune([Phase(3, "all", 1e-3)]), *of_the_command(), *others, where],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_progress_bar": False, **(settings or {})},
    )
    with waits:
        trainer.fit(task, data_of(root, kind, **options))
    return waits, where


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    """What a device has beside tensors, and targets that are right, as nobody can see."""
    monkeypatch.setattr(torch, "meta", SimpleNamespace(manual_seed=lambda seed: None), raising=False)
    for kind in (tasks.ImageClassifier, tasks.ImageRegressor, tasks.MultiLabelClassifier, tasks.UNetSegmenter):
        monkeypatch.setattr(kind, "check_target", lambda self, target: bool(target.min() < 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits(streets, tmp_path, case):
    kind, options = CASES[case]
    waits, where = train(streets, tmp_path, kind, **options)
    assert where.steps >= 12
    for notes in (waits.notes, waits.lightning):
        assert {place: lines for place, lines in notes.items() if place and place[0] == "steps"} == {}
    assert all("check_target" in line for line in waits.notes[("first",)])
    first, second = (waits.notes.get(("validation", epoch), []) for epoch in (0, 1))
    assert any("check_target" in line for line in first), "targets are checked once"
    others = [line for line in second if "counts" not in line]  # torchmetrics counts pixels
    assert others == []
    assert kind == "masks" or second == []


@pytest.mark.filterwarnings("ignore")
def test_without_a_validation_targets_are_checked_in_the_first_step_alone(streets, tmp_path):
    waits, _ = train(streets, tmp_path, "classes", {"limit_val_batches": 0})
    assert {place for place, lines in waits.notes.items() if "check_target" in "".join(lines)} == {("first",)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bar", [TQDMProgressBar, ProgressLine])
def test_for_a_bar_of_its_own_lightning_reads_the_loss_in_each_step_and_for_ours_it_does_not(streets, tmp_path, bar):
    waits, _ = train(streets, tmp_path, "classes", {"enable_progress_bar": True}, bar())
    read = [line for place, lines in waits.lightning.items() if place and place[0] == "steps" for line in lines]
    assert any(line.endswith("return value.item()") for line in read) == (bar is TQDMProgressBar), read
    ours = [line for place, lines in waits.notes.items() if place and place[0] == "steps" for line in lines]
    assert all(line.startswith("cli/progress_line.py") for line in ours), "four times a second"


def test_boxes_follow_their_images_without_a_wait():
    there = {"image": torch.rand(2, 3, 64, 64, device="meta"), "boxes": [torch.rand(3, 4, device="meta")] * 2}
    with Waits() as waits:
        resized = resize_batch({**there, "area": torch.rand(2, device="meta")}, (32, 32))
    assert resized["image"].shape == (2, 3, 32, 32)
    assert waits.notes == {}


@pytest.mark.parametrize(("device", "pinned"), [("cuda:0", True), ("cpu", False)])
def test_pixels_lie_in_pinned_memory_where_a_gpu_trains(streets, device, pinned):
    data = data_of(streets, "classes")
    data.trainer = pl.Trainer(accelerator=Device(), strategy=There(torch.device(device)), logger=False)
    for loader in (data.train_dataloader(), data.train_dataloader().independent(), data.val_dataloader()):
        assert loader.pin_memory == pinned


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch was built without CUDA")
@pytest.mark.parametrize("augment", ["photo", "none"])
def test_making_a_batch_ready_sends_nothing_to_the_device(streets, augment):
    """Of a CUDA tensor that has no numbers, as torch's compiler uses them: a tensor made of numbers here goes there."""
    data = data_of(streets, "masks", augment=augment)
    batch = next(iter(data.train_dataloader()))
    waits = Sent()
    with FakeTensorMode(allow_non_fake_inputs=True), waits:
        there = {name: value.to("cuda", non_blocking=True) for name, value in batch.items()}
        ready = data.on_after_batch_transfer(there, 0)
    assert ready["image"].device.type == "cuda"
    assert waits.sent == [True] * len(batch)  # non_blocking


class Sent(TorchDispatchMode):
    """Notes for each copy between host and device whether it may go on by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (TO, COPY) and len({arg.device for arg in (args[0], found)}) > 1:
            self.sent.append(bool((kwargs or {}).get("non_blocking")))
        return found
