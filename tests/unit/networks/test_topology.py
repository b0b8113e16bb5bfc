from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import InvalidSettings
from lib.networks.topology import plan_kernels, plan_strides, round_patch, side_multiples

sides = st.tuples(*[st.integers(1, 300)] * 3)
spacings = st.tuples(*[st.floats(0.2, 12.0)] * 3)

IN_PLANE = (1, 2, 2)
ALL = (2, 2, 2)


@pytest.mark.parametrize(
    ("patch", "spacing_mm", "strides"),
    [
        pytest.param((40, 56, 40), (1.0, 1.0, 1.0), (ALL,) * 3, id="hippocampus of the decathlon"),
        pytest.param((128, 128, 128), (1.0, 0.77, 0.77), (ALL,) * 5, id="liver"),
        pytest.param(
            (20, 320, 256),
            (3.6, 0.62, 0.62),
            (IN_PLANE, IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE),
            id="prostate",
        ),
        pytest.param(
            (20, 256, 224), (5.0, 1.5625, 1.5625), (IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), id="cardiac cine"
        ),
        pytest.param(
            (28, 256, 256),
            (5.0, 0.8, 0.8),
            (IN_PLANE, IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE),
            id="CT with slices of 5 mm",
        ),
    ],
)
def test_the_strides_are_those_of_the_published_plans(
    patch: tuple[int, int, int], spacing_mm: tuple[float, float, float], strides: tuple[tuple[int, int, int], ...]
) -> None:
    assert plan_strides(patch, spacing_mm) == strides


def test_an_axis_alone_is_halved_only_from_three_times_the_deepest_side_on() -> None:
    assert plan_strides((11, 4, 4)) == ()
    assert plan_strides((12, 4, 4)) == ((2, 1, 1),)


def test_a_patch_too_small_for_any_halving_has_one_stage() -> None:
    assert plan_strides((7, 7, 7)) == ()
    assert plan_kernels(()) == ((3, 3, 3),)
    assert side_multiples(()) == (1, 1, 1)


def test_kernels_leave_a_coarse_axis_alone_until_it_is_halved() -> None:
    flat, full = (1, 3, 3), (3, 3, 3)
    assert plan_kernels(plan_strides((20, 320, 256), (3.6, 0.62, 0.62))) == (flat, flat, full, full, full, full, full)
    assert plan_kernels(((2, 2, 2),)) == (full, full)


def test_an_axis_that_is_never_halved_has_kernels_of_three() -> None:
    assert plan_kernels((IN_PLANE, IN_PLANE)) == ((3, 3, 3),) * 3


def test_a_patch_is_rounded_up_to_what_the_strides_divide() -> None:
    strides = (IN_PLANE, ALL)
    assert side_multiples(strides) == (2, 4, 4)
    assert round_patch((5, 41, 40), strides) == (6, 44, 40)


@given(sides, spacings)
def test_a_rounded_patch_keeps_its_strides_divides_and_never_shrinks(
    patch: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    strides = plan_strides(patch, spacing_mm)
    rounded = round_patch(patch, strides)
    assert all(r >= p for r, p in zip(rounded, patch, strict=True))
    for side, multiple in zip(rounded, side_multiples(strides), strict=True):
        assert side % multiple == 0
        assert multiple == 1 or side // multiple >= 4
    assert round_patch(rounded, strides) == rounded


@given(sides, spacings)
def test_the_plan_does_not_depend_on_the_unit_of_length_or_the_order_of_the_axes(
    patch: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    turned = plan_strides(patch[::-1], spacing_mm[::-1])
    assert [s[::-1] for s in turned] == list(plan_strides(patch, spacing_mm))
    assert plan_strides(patch, [mm * 4 for mm in spacing_mm]) == plan_strides(patch, spacing_mm)


@pytest.mark.parametrize(
    ("patch", "spacing_mm"),
    [
        ((0, 8, 8), (1, 1, 1)),
        ((8, 8), (1, 1, 1)),
        ((8, 8, 8), (1, 0, 1)),
        ((8, 8, 8), (1, nan, 1)),
        ((8, 8, 8), (1, inf, 1)),
    ],
)
def test_sides_and_spacings_that_are_not_positive_numbers_are_refused(
    patch: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidSettings, match="three positive sides"):
        plan_strides(patch, spacing_mm)
