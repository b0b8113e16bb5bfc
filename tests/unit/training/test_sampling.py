from collections import Counter
from time import process_time

import numpy as np
import pytest

from lib.training.losses import IGNORE
from lib.training.sampling import PIXELS_OF_SLICE, VOXELS_OF_LABEL, Pick, Sampler, label_probabilities


def blank(slices: int, rows: int = 8, columns: int = 8) -> np.ndarray:
    return np.zeros((slices, rows, columns), dtype=np.uint8)


def inside(pick: Pick, voxel: tuple[int, int, int], window: tuple[int, int, int]) -> bool:
    return all(first <= at < first + size for first, at, size in zip(pick.corner, voxel, window, strict=True))


def test_labels_are_chosen_alike_or_as_cases_show_them_or_in_between() -> None:
    assert label_probabilities([9, 1], 1.0).tolist() == [0.5, 0.5]
    assert label_probabilities([9, 1], 0.0).tolist() == [0.9, 0.1]
    assert label_probabilities([9, 1], 0.5).tolist() == pytest.approx([0.7, 0.3])
    assert label_probabilities([2, 1, 1], 0.25).tolist() == pytest.approx([0.25 / 3 + 0.375] + [0.25 / 3 + 0.1875] * 2)


@pytest.mark.parametrize("window", [(1, 8, 8), (3, 8, 8)])
def test_drawn_labels_follow_the_probabilities_and_windows_hold_a_voxel_of_them(window: tuple[int, int, int]) -> None:
    common, rare = [blank(20, 16, 16) for _ in range(3)], blank(20, 16, 16)
    for case in common:
        case[:, 2, 3] = 1
    rare[7, 12, 13] = 2
    sampler = Sampler([*common, rare], classes=3, window=window, by_slice=window[0] == 1)
    for oversampling, share in ((1.0, 0.5), (0.0, 0.25), (0.5, 0.375)):
        picks = sampler.draw(np.random.default_rng(0), 800, 1.0, oversampling)
        of_rare = [pick for pick in picks if pick.case == 3]
        assert len(of_rare) / 800 == pytest.approx(share, abs=0.05)
        assert all(inside(pick, (7, 12, 13), window) for pick in of_rare)
        assert len({pick.corner for pick in of_rare}) > 5
        assert len({pick.corner[0] for pick in of_rare}) == window[0]
        assert {pick.case for pick in picks} == {0, 1, 2, 3}


def test_a_slice_that_shows_much_of_a_label_is_drawn_as_often_as_one_that_shows_little() -> None:
    case = blank(4)
    case[1] = 1
    case[2, 3, 4] = 1
    numbers = Counter(
        p.corner[0] for p in Sampler([case], 2, (1, 4, 4), True).draw(np.random.default_rng(0), 400, 1, 1)
    )
    assert set(numbers) == {1, 2}
    assert abs(numbers[1] - 200) < 50


def test_every_voxel_is_drawn_alike_for_patches() -> None:
    case = blank(4)
    case[1] = 1
    case[2, 3, 4] = 1
    picks = Sampler([case], 2, (1, 1, 1), False).draw(np.random.default_rng(0), 650, 1, 1)
    assert all(case[pick.corner] == 1 for pick in picks)
    assert sum(pick.corner[0] == 2 for pick in picks) < 40


def test_without_foreground_all_covered_slices_of_all_cases_are_drawn_alike() -> None:
    cases = [blank(30), blank(10)]
    cases[1][4:6] = IGNORE
    picks = Sampler(cases, 2, (1, 8, 8), True).draw(np.random.default_rng(0), 800, 0.0, 1.0)
    assert abs(sum(pick.case == 0 for pick in picks) / 800 - 30 / 38) < 0.05
    assert len({(pick.case, pick.corner[0]) for pick in picks}) == 38


def test_windows_lie_inside_and_are_centred_where_they_are_larger() -> None:
    sampler = Sampler([blank(3, 20, 6)], 2, (5, 4, 9), False)
    corners = [pick.corner for pick in sampler.draw(np.random.default_rng(0), 200, 0.0, 1.0)]
    assert {corner[0] for corner in corners} == {-1}
    assert {corner[2] for corner in corners} == {-2}
    assert {corner[1] for corner in corners} == set(range(17))


def test_the_same_generator_draws_the_same_windows() -> None:
    case = blank(9)
    case[2:5, 3:5, 3:6] = 1
    draws = [Sampler([case], 2, (4, 4, 4), False).draw(np.random.default_rng((5, 6)), 8, 0.5, 1.0) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0] != Sampler([case], 2, (4, 4, 4), False).draw(np.random.default_rng((5, 7)), 8, 0.5, 1.0)


def test_what_is_kept_of_a_label_is_bounded_and_a_draw_takes_no_look_at_the_voxels() -> None:
    case = np.ones((40, 128, 128), dtype=np.uint8)
    of_patches, of_slices = (Sampler([case], 2, (8, 32, 32), by_slice) for by_slice in (False, True))
    assert len(of_patches.places[1][0]) == VOXELS_OF_LABEL
    assert len(of_slices.places[1][0]) == 40 * PIXELS_OF_SLICE
    started = process_time()
    of_patches.draw(np.random.default_rng(0), 1000, 1.0, 1.0)
    assert process_time() - started < 1.0
