"""The distributions of augmentation, and that images and masks move together."""

import math

import numpy as np
import pytest
import torch

from lightning_finetune.data.pixels.augment import Augment, turned
from lightning_finetune.errors import DataError

MANY = np.arange(20_000)
STILL = {"do_flip": False, "max_rotate": 0.0, "max_zoom": 1.0, "max_lighting": 0.0, "max_warp": 0.0}


def numbers(augment: Augment, size: tuple[int, int] = (32, 32), items=MANY) -> np.ndarray:
    return augment.plan(0, 0, items, size).view(torch.float32).numpy()


def smooth(height: int = 48, width: int = 48) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    return torch.stack([y.sin(), x.cos(), (x + y).sin()]).add(1).mul(120).to(torch.uint8)[None]


def test_flips_are_exact_and_half_of_the_images_have_one():
    codes = Augment(flip_vert=False).symmetries(0, 0, MANY, square=True)
    assert set(codes.tolist()) == {0, 1}
    assert codes.mean() == pytest.approx(0.5, abs=0.015)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(turned(pixels, 1), pixels[:, ::-1])


def test_every_symmetry_of_the_square_is_as_likely():
    codes = Augment(flip_vert=True).symmetries(0, 0, MANY, square=True)
    shares = np.bincount(codes, minlength=8) / len(codes)
    assert shares == pytest.approx([0.5625] + [0.0625] * 7, abs=0.01)  # 0.5 + 0.5 / 8 stay as they are
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert len({turned(pixels, code).tobytes() for code in range(8)}) == 8


def test_rotation_is_uniform_in_degrees_and_as_likely_as_asked():
    plan = numbers(Augment(**{**STILL, "max_rotate": 10.0}))
    degrees = np.degrees(np.arctan2(plan[:, 1], plan[:, 0]))
    drawn = degrees[degrees != 0]
    assert len(drawn) / len(degrees) == pytest.approx(0.75, abs=0.015)
    assert np.histogram(drawn, bins=10, range=(-10, 10))[0] / len(drawn) == pytest.approx([0.1] * 10, abs=0.012)


def test_rotation_keeps_right_angles_in_images_that_are_not_square():
    matrix = numbers(Augment(**{**STILL, "max_rotate": 45.0, "p_affine": 1.0}), (20, 80), MANY[:5])
    for a, b, _, d, e, *_ in matrix:
        in_pixels = np.diag([80, 20]) @ np.array([[a, b], [d, e]]) @ np.diag([1 / 80, 1 / 20])
        assert in_pixels @ in_pixels.T == pytest.approx(np.eye(2), abs=1e-5)


def test_zoom_shows_a_part_of_the_image_that_lies_anywhere():
    plan = numbers(Augment(**{**STILL, "max_zoom": 1.5}))
    shown, across, down = plan[:, 0], plan[:, 2], plan[:, 5]
    drawn = shown[shown != 1]
    assert len(drawn) / len(shown) == pytest.approx(0.75, abs=0.015)
    assert 1 / drawn.min() == pytest.approx(1.5, abs=0.01)
    assert (1 / drawn).mean() == pytest.approx(1.25, abs=0.01)
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.03
    for centre in (across, down):
        assert (np.abs(centre) <= 1 - shown + 1e-6).all()
        assert (np.abs(centre[shown < 1]) / (1 - shown[shown < 1])).mean() == pytest.approx(0.5, abs=0.02)


def test_warp_moves_corners_along_their_sides_by_at_most_the_magnitude():
    plan = numbers(Augment(**{**STILL, "max_warp": 0.2}))
    matrices = np.concatenate([plan[:, :8], np.ones((len(plan), 1))], axis=1).reshape(-1, 3, 3)
    corners = np.array([[-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]], dtype=float)
    seen = corners @ matrices.transpose(0, 2, 1)
    moved = np.abs(seen[..., :2] / seen[..., 2:] - corners[:, :2])
    assert moved.max() == pytest.approx(0.2, abs=0.005)
    assert moved.std(axis=1).max() < 1e-6  # a keystone: all corners move equally far
    assert (moved[:, 0] > 1e-6).mean(axis=0) == pytest.approx([0.75, 0.75], abs=0.015)
    both = (moved[:, 0] > 1e-6).all(axis=1).mean()
    assert both == pytest.approx(0.75**2, abs=0.015)  # the two directions are independent


def test_lighting_follows_the_published_formula():
    augment = Augment(**{**STILL, "max_lighting": 0.2})
    plan = augment.plan(0, 0, MANY, (2, 2))
    grey = torch.full((len(MANY), 3, 2, 2), 128, dtype=torch.uint8)
    value = 128 / 255
    seen = augment(grey, None, plan)[0][:, 0, 0, 0].double()
    change, power = plan.view(torch.float32).double()[:, 8:].T
    odds = (math.log(value / (1 - value)) + change) * power
    assert torch.allclose(seen, torch.sigmoid(odds), atol=1e-5)
    brightness = torch.sigmoid(change[change != 0])
    assert (change == 0).double().mean() == pytest.approx(0.25, abs=0.015)
    assert (float(brightness.min()), float(brightness.max())) == pytest.approx((0.4, 0.6), abs=1e-3)
    contrast = power[power != 1].log()
    assert float(contrast.max()) == pytest.approx(-math.log(0.8), abs=1e-3)
    assert float(contrast.mean()) == pytest.approx(0, abs=0.01)


def test_nothing_drawn_changes_nothing():
    augment = Augment.preset("none")
    image = smooth()
    plan = augment.plan(0, 0, np.arange(1), (48, 48))
    assert torch.equal(augment(image, None, plan)[0], image / 255)
    undrawn = Augment(p_affine=0.0, p_lighting=0.0).plan(0, 0, np.arange(1), (48, 48))
    assert torch.allclose(Augment()(image, None, undrawn)[0], image / 255, atol=1e-4)


def test_masks_move_with_their_images_and_keep_their_ids():
    augment = Augment(p_affine=1.0, max_lighting=0.0, max_rotate=30.0, max_zoom=1.5)
    ids = torch.randint(0, 4, (8, 12, 12)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    ids[ids == 3] = 255
    images = ids[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    pixels, masks = augment(images, ids, augment.plan(0, 0, np.arange(8), (48, 48)))
    assert masks.dtype == ids.dtype
    assert set(masks.unique().tolist()) == {0, 1, 2, 255}
    assert (masks != ids).float().mean() > 0.2
    same = (pixels[:, 0] * 255 - masks).abs() < 0.5  # away from edges, where the image is interpolated
    assert same.float().mean() > 0.7


def test_corners_that_look_outside_see_the_image_reflected():
    augment = Augment(**{**STILL, "max_rotate": 45.0, "p_affine": 1.0})
    image = torch.full((4, 3, 32, 32), 200, dtype=torch.uint8)
    assert torch.allclose(augment(image, None, augment.plan(0, 0, np.arange(4), (32, 32)))[0], torch.tensor(200 / 255))


def test_presets_are_what_the_lessons_use():
    assert Augment.preset("photo") == Augment()
    satellite = Augment.preset("satellite")
    assert (satellite.flip_vert, satellite.max_warp, satellite.max_rotate) == (True, 0.0, 10.0)
    with pytest.raises(DataError, match="Did you mean 'photo'"):
        Augment.preset("foto")


@pytest.mark.parametrize("wrong", [{"max_lighting": 1.0}, {"min_zoom": 2.0}, {"max_warp": 0.7}])
def test_impossible_magnitudes_are_refused(wrong: dict[str, float]):
    with pytest.raises(DataError, match=next(iter(wrong)).split("_")[1]):
        Augment(**wrong)
