"""Draws are tied to ids and look independent."""

import numpy as np
import pytest

from lib.core.errors import InvalidInput
from lib.selection.draws import gumbel, keys, number, uniform

IDS = [f"case {i}" for i in range(20_000)]


def test_a_draw_belongs_to_its_id_and_seed() -> None:
    some = keys(["a", "b", "c"], 5)
    np.testing.assert_array_equal(keys(["c", "new", "a"], 5)[[2, 0]], some[[0, 2]])
    assert not set(keys(["a", "b", "c"], 6).tolist()) & set(some.tolist())
    np.testing.assert_array_equal(uniform(keys(["c"], 5), "salt"), uniform(some, "salt")[2:])


def test_draws_are_uniform_in_the_open_interval_and_salts_make_them_independent() -> None:
    hashes = keys(IDS, 1)
    plain, salted, other = uniform(hashes), uniform(hashes, "power liver"), uniform(hashes, "power spleen")
    for draws in (plain, salted, other):
        assert 0 < draws.min() < 0.001
        assert 0.999 < draws.max() < 1
        np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0], 2000, atol=4.5 * 42.4)  # 42.4 = binomial spread
    assert np.abs(np.corrcoef([plain, salted, other]) - np.eye(3)).max() < 4.5 / np.sqrt(len(IDS))


def test_the_smallest_and_the_largest_hash_give_finite_gumbel_noise() -> None:
    edges = uniform(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert np.isfinite(gumbel(edges)).all()
    assert 0 < edges[0] < edges[1] < 1


def test_gumbel_noise_has_the_mean_of_the_distribution() -> None:
    noise = gumbel(uniform(keys(IDS, 2)))
    assert abs(noise.mean() - np.euler_gamma) < 4.5 * np.pi / np.sqrt(6 * len(IDS))


def test_a_number_follows_from_its_words() -> None:
    assert number(1, "turn", "a", 2) == number(1, "turn", "a", 2)
    assert len({number(1, "turn", "a", i) for i in range(50)}) == 50
    assert number(1, "ab", "c") != number(1, "a", "bc")


def test_ids_that_occur_twice_are_named_in_a_time_that_grows_with_their_number() -> None:
    with pytest.raises(InvalidInput, match=r"got twice: case 0, case 1, case 10, case 100$"):
        keys([*IDS, *IDS], 1)
