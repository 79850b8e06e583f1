"""Which files of a folder are images."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_finetune import ImageData
from lightning_finetune.data.block.folder_images import check_class_folders, image_files
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.errors import DataError
from tests.data.images import fill


def test_images_are_found_at_any_depth_in_order_without_hidden_and_skipped_folders(tmp_path: Path):
    expected = [*fill(tmp_path / "a/b/c", 2), *fill(tmp_path / "d", 1)]
    fill(tmp_path / ".hidden", 1), fill(tmp_path / "a/masks", 1)
    assert image_files(tmp_path, skip=["masks"]) == expected


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path):
    fill(tmp_path / "elsewhere", 2)
    (tmp_path / "root/ant").mkdir(parents=True)
    (tmp_path / "root/bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/ant/up").symlink_to(tmp_path / "root")
    assert image_files(tmp_path / "root") == [tmp_path / "root/bee/000.jpg", tmp_path / "root/bee/001.jpg"]


def test_class_folders_without_images_are_named(tmp_path: Path):
    files = FilePaths([*fill(tmp_path / "train/ant", 1), *fill(tmp_path / "valid/ant/deep", 1)])
    check_class_folders(files)
    (tmp_path / "train/logs/version_0").mkdir(parents=True)
    check_class_folders(files)
    (tmp_path / "train/bee").mkdir()
    (tmp_path / "train/bee/notes.txt").touch()
    with pytest.raises(DataError, match="train/bee"):
        check_class_folders(files)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.HEIC", "convert them to JPEG"),
        ("a.zip", "Unpack"),
        ("photo", "no ending"),
        ("a.dcm", "'.dcm': 1"),
        (".hidden.jpg", "empty"),
    ],
)
def test_a_folder_without_images_says_what_it_holds(tmp_path: Path, name: str, words: str):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=words):
        ImageData.from_folder(tmp_path)


def test_a_class_of_other_files_alone_is_named_with_their_ending(tmp_path: Path):
    fill(tmp_path / "ant", 2), fill(tmp_path / "bee", 2)
    (tmp_path / "wasp").mkdir()
    (tmp_path / "wasp/a.heic").touch()
    with pytest.raises(DataError, match=r"wasp \(holds 1 \.heic\)"):
        ImageData.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found"])
def test_what_systems_leave_beside_classes_is_no_class(tmp_path: Path, name: str):
    fill(tmp_path / "ant", 2), fill(tmp_path / "bee", 2), fill(tmp_path / name / "ant", 2)
    assert [*ImageData.from_folder(tmp_path).classes] == ["ant", "bee"]


def test_a_folder_that_is_closed_is_named_and_not_left_out(tmp_path: Path):
    fill(tmp_path / "ant", 2), fill(tmp_path / "bee", 2), fill(tmp_path / "wasp", 2)
    (tmp_path / "wasp").chmod(0)
    code = "import sys; from lightning_finetune.data.block.folder_images import *; image_files(Path(sys.argv[1]))"
    words = ["unshare", "--user", "--map-user=12345", sys.executable, "-c", code, str(tmp_path)]
    if subprocess.run([*words[:3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    said = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]).stderr
    (tmp_path / "wasp").chmod(0o755)
    assert said.strip().endswith(f"{tmp_path}/wasp: expected a folder that can be listed, but: Permission denied.")
