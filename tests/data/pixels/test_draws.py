"""Counter-based random numbers."""

import numpy as np
import pytest

from lightning_finetune.data.pixels.draws import Stream, hashes, permutation, uniforms

ITEMS = np.arange(50_000)


def test_draws_are_uniform_and_their_columns_uncorrelated():
    draws = uniforms(42, 3, ITEMS, 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 45  # chi-square of 19 degrees of freedom, p = 0.0007
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.02


@pytest.mark.parametrize("other", [(43, 3, Stream.ORDER), (42, 4, Stream.ORDER), (42, 3, Stream.CROP)])
def test_seed_epoch_and_stream_each_give_independent_draws(other: tuple[int, int, Stream]):
    seed, epoch, stream = other
    first, second = uniforms(42, 3, ITEMS, 1)[:, 0], uniforms(seed, epoch, ITEMS, 1, stream)[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_neighbours_in_seed_and_item_are_independent():
    by_seed = np.array([uniforms(seed, 0, [0], 1)[0, 0] for seed in range(3000)])
    by_item = uniforms(0, 0, ITEMS, 1)[:, 0]
    for draws in (by_seed, by_item):
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.06
    assert len(set(by_seed) | set(by_item)) >= len(by_seed) + len(by_item) - 1  # seed 0, item 0 is in both


def test_draws_never_change_between_versions():
    expected = [
        [4173901078490612138, 17949747135416580104],
        [1624633171167320634, 16992889078084652423],
    ]
    assert hashes(42, 1, [0, 5], 2).tolist() == expected


def test_a_permutation_holds_every_item_once_and_differs_by_epoch():
    orders = [permutation(0, epoch, 1000) for epoch in range(2)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert (orders[0] != orders[1]).mean() > 0.9


def test_negative_and_huge_seeds_are_seeds_too():
    draws = {uniforms(seed, 0, [0], 1)[0, 0] for seed in (-1, 0, 2**63, 2**64 + 1)}
    assert len(draws) == 4
