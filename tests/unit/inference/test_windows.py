import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.core.errors import InvalidVolume
from lib.inference.windows import Windows, axis_weights, blend, corners

SIZES = st.tuples(*[st.integers(1, 20)] * 3)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.5, 0.9])


def test_windows_stand_evenly_from_one_end_to_the_other() -> None:
    assert corners(10, 10, 0.5) == (0,)
    assert corners(11, 10, 0.5) == (0, 1)
    assert corners(20, 10, 0.0) == (0, 10)
    assert corners(21, 10, 0.0) == (0, 5, 11)
    assert corners(14, 10, 0.8) == (0, 2, 4)
    assert corners(26, 8, 0.5) == (0, 3, 7, 10, 14, 18)


def test_an_axis_shorter_than_the_patch_is_refused() -> None:
    with pytest.raises(InvalidVolume, match="at least the 10 voxels of the patch, got 9"):
        corners(9, 10, 0.5)


@given(side=st.integers(1, 400), patch=st.integers(1, 64), overlap=OVERLAPS)
def test_windows_cover_every_voxel_and_share_at_least_the_overlap(side: int, patch: int, overlap: float) -> None:
    side = max(side, patch)
    starts = corners(side, patch, overlap)
    assert (starts[0], starts[-1]) == (0, side - patch)
    shared = patch - np.diff(starts)
    assert (shared >= min(int(patch * overlap), patch - 1)).all()


@given(side=st.integers(1, 200), patch=st.integers(1, 64), overlap=OVERLAPS)
def test_the_weights_along_an_axis_sum_to_one_at_every_voxel(side: int, patch: int, overlap: float) -> None:
    side = max(side, patch)
    starts = corners(side, patch, overlap)
    total = np.zeros(side)
    for start, weights in zip(starts, axis_weights(starts, patch), strict=True):
        assert (weights > 0).all()
        total[start : start + patch] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_are_gaussian_with_a_deviation_of_an_eighth_of_the_patch() -> None:
    first, second = axis_weights((0, 4), 8)
    assert first[:4].tolist() == [1, 1, 1, 1]  # nobody else is there
    bell = np.exp(-0.5 * (np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])) ** 2)
    np.testing.assert_allclose(first[4:], bell[4:] / (bell[4:] + bell[:4]), rtol=1e-6)
    np.testing.assert_allclose(second[:4], 1 - first[4:], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, patch=SIZES, overlap=OVERLAPS, batch=st.integers(1, 5))
def test_an_identity_comes_back_as_it_was_in_slabs_no_deeper_than_the_patch(
    size: tuple[int, int, int], patch: tuple[int, int, int], overlap: float, batch: int
) -> None:
    patch = tuple(min(pair) for pair in zip(patch, size, strict=True))  # type: ignore[assignment]
    if overlap == 0.9:
        patch = tuple(max(side // 2, p) for side, p in zip(size, patch, strict=True))  # type: ignore[assignment]
        patch = tuple(max(1, side) for side in patch)  # type: ignore[assignment]
    planes = np.random.default_rng(0).normal(0, 1, size).astype(np.float32)
    asked: list[int] = []
    weighed = 0.0

    def classify(patches: np.ndarray, weights: Tensor) -> Tensor:
        nonlocal weighed
        asked.append(len(patches))
        weighed += float(weights.double().sum())
        assert patches.shape[1:] == (1, *patch)
        assert tuple(weights.shape) == (len(patches), *patch)
        return torch.from_numpy(np.concatenate([patches, np.full_like(patches, 0.7)], axis=1))

    windows = Windows.over(size, patch, overlap)
    slabs = [slab.clone() for slab in blend(planes, windows, batch, classify)]
    assert max(map(len, slabs)) <= patch[0]
    assert (sum(asked), max(asked) <= batch) == (len(windows), True)
    assert weighed == pytest.approx(planes.size, rel=1e-5)
    maps = torch.cat(slabs).numpy()
    np.testing.assert_allclose(maps[:, 0], planes, atol=5e-6)
    np.testing.assert_allclose(maps[:, 1], 0.7, atol=1e-6)


def test_where_patches_disagree_each_weighs_more_in_its_middle() -> None:
    answers = iter([0.0, 1.0])
    windows = Windows.over((12, 1, 1), (8, 1, 1), 0.5)
    slabs = [
        slab.clone()
        for slab in blend(np.zeros((12, 1, 1)), windows, 1, lambda p, _: torch.full(p.shape, next(answers)))
    ]
    assert [len(slab) for slab in slabs] == [4, 8]  # the first planes leave before the second patch
    values = torch.cat(slabs).flatten().numpy()
    np.testing.assert_allclose(values[[0, 1, 2, 3, 8, 9, 10, 11]], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(values[4:8], axis_weights((0, 4), 8)[1][:4])
    assert values[4] < 0.1 < 0.9 < values[7]
