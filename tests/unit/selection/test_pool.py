"""A pool holds together or is refused; what is missing has one meaning."""

import numpy as np
import pytest

from lib.core.errors import InvalidInput
from lib.selection.cases import Labelled
from lib.selection.pool import NO_MODEL, QUANTITIES, Pool
from pools import NAN, facts

IDS = ("a", "b", "c")


def test_what_is_not_known_may_be_left_out() -> None:
    pool = Pool.of(IDS, ("liver", "cyst"))
    assert all(np.isnan(pool.quantities[name]).all() for name in QUANTITIES)
    assert np.isnan(pool.presence).all()
    assert not pool.volumes_ml.any()
    assert pool.embeddings.shape == (3, 0)
    assert pool.facts.strata() == [("", "", "")] * 3
    assert (len(pool.labelled), pool.labelled.presence.shape, pool.champion) == (0, (0, 2), 0)
    assert Pool.of((), ("liver",)).champion == NO_MODEL


def test_values_that_are_none_become_missing() -> None:
    pool = Pool.of(
        IDS,
        ("liver",),
        quantities={"entropy": [[np.inf], [-np.inf], [0.5]]},
        volumes_ml=[[NAN], [0.0], [2.0]],
        embeddings=[[1.0, NAN], [np.inf, 0.0], [1.0, 2.0]],
    )
    np.testing.assert_array_equal(pool.quantities["entropy"], [[NAN], [NAN], [0.5]])
    np.testing.assert_array_equal(pool.volumes_ml, [[0.0], [0.0], [2.0]])
    np.testing.assert_array_equal(pool.embeddings, [[NAN, NAN], [NAN, NAN], [1.0, 2.0]])


def test_a_pool_cannot_be_changed_from_outside() -> None:
    entropy = np.zeros((3, 1))
    pool = Pool.of(IDS, ("liver",), quantities={"entropy": entropy})
    entropy[0] = 9.0
    assert pool.quantities["entropy"][0, 0] == 0.0
    for array in (pool.quantities["entropy"], pool.volumes_ml, pool.presence, pool.embeddings, pool.versions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_cases_are_taken_with_all_that_belongs_to_them() -> None:
    pool = Pool.of(
        IDS,
        ("liver",),
        quantities={"bald": [[1.0], [2.0], [3.0]]},
        volumes_ml=[[1.0], [2.0], [3.0]],
        presence=[[0.1], [0.2], [0.3]],
        embeddings=[[1.0], [2.0], [3.0]],
        versions=[1, 2, 3],
        facts=facts("p q r", "s t u", "v w x", "l m n"),
        labelled=Labelled.of(["z", "y"], [[True], [False]], [[5.0], [6.0]], [1, 2], facts("i j")),
    )
    some = pool.take([2, 0])
    assert some.ids == ("c", "a")
    assert some.facts == facts("r p", "u s", "x v", "n l")
    for table in (some.quantities["bald"], some.volumes_ml, some.presence * 10, some.embeddings):
        np.testing.assert_allclose(table, [[3.0], [1.0]])
    np.testing.assert_array_equal(some.versions, [3, 1])
    assert np.isnan(some.quantities["entropy"]).all()
    assert some.labelled.ids == ("y", "z")
    np.testing.assert_array_equal(some.labelled.embeddings, [[6.0], [5.0]])
    assert some.labelled.facts.patients == ("j", "i")


def test_the_frequency_of_a_label_is_its_share_of_the_labelled_cases() -> None:
    labelled = Labelled.of(["x", "y", "z", "w"], [[1, 0], [1, 0], [1, 1], [1, 0]])
    np.testing.assert_array_equal(labelled.frequency(), [1.0, 0.25])
    np.testing.assert_array_equal(Labelled.of([], np.empty((0, 2))).frequency(), [0.0, 0.0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": ("a", "b", "b")}, "pool: each case may be named once, got 3 ids of 2 cases"),
        ({"labels": ("liver", "liver")}, "labels must be named once"),
        ({"rare": ("cyst",)}, r"rare ones be among them, got \('liver',\) and rare \('cyst',\)"),
        ({"quantities": {"variance": [[0.0]]}}, "quantities must be of entropy, bald, .* got variance"),
        ({"quantities": {"margin": [[0.0]]}}, r"margin must be \(3 cases, 1 labels\), got shape \(1, 1\)"),
        ({"volumes_ml": [[-1.0], [0.0], [0.0]]}, "volumes_ml must be finite and 0 or more"),
        ({"volumes_ml": [[np.inf], [0.0], [0.0]]}, "volumes_ml must be finite and 0 or more"),
        ({"presence": [[1.1], [0.0], [0.0]]}, "presence from 0 to 1"),
        ({"presence": [[0.0, 1.0]]}, r"presence must be \(3 cases, 1 labels\), got shape \(1, 2\)"),
        (
            {"embeddings": [[0.0]]},
            r"pool: embeddings must be \(3 cases, d\) .*, got \(1, 1\) and \(3,\)",
        ),
        ({"versions": [1]}, r"got \(3, 0\) and \(1,\)"),
        ({"embeddings": np.zeros((3, 2)), "versions": [1, 1, -1]}, "an embedding needs the version of the model"),
        ({"facts": facts("p q")}, "pool: patients must be of 3 cases, got 2"),
        ({"labelled": Labelled.of(["x"], [[True, True]])}, "must have 1 labels and embeddings of 0, got 2 and 0"),
        ({"labelled": Labelled.of(["b"], [[True]])}, "in the pool or labelled, not both: b"),
        (
            {"embeddings": np.zeros((3, 2)), "labelled": Labelled.of(["x"], [[True]], [[0.0] * 3])},
            "embeddings of 2, got 1 and 3; embeddings of another width are of another model",
        ),
    ],
)
def test_a_pool_that_does_not_hold_together_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Pool.of(**{"ids": IDS, "labels": ("liver",), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["x", "x"], [[True], [True]]), "labelled: each case may be named once"),
        ((["x"], [True]), r"labelled: presence must be \(1 cases, n labels\), got shape \(1,\)"),
        ((["x"], [[True]], [[0.0]], [-1]), "labelled: an embedding needs the version"),
        ((["x"], [[True]], None, None, facts("p", "s t")), "labelled: patients must be of 1 cases|sites must be of 1"),
    ],
)
def test_labelled_cases_that_do_not_hold_together_are_refused(given: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Labelled.of(*given)


def test_missing_tables_of_a_large_pool_take_no_memory() -> None:
    pool = Pool.of([str(i) for i in range(1000)], tuple(map(str, range(50))))
    same = pool.take(list(reversed(range(1000))))
    assert pool.quantities["bald"].strides == same.quantities["bald"].strides == (0, 0)


def test_embeddings_are_kept_in_single_precision_and_read_only_ones_without_a_copy() -> None:
    rows = np.ones((3, 2), dtype=np.float32)
    assert not np.shares_memory(Pool.of(IDS, ("liver",), embeddings=rows).embeddings, rows)
    rows.flags.writeable = False
    pool = Pool.of(IDS, ("liver",), embeddings=rows)
    assert pool.embeddings.dtype == np.float32
    assert np.shares_memory(pool.embeddings, rows)
    torn = np.array([[1.0, NAN], [1.0, 2.0], [NAN, NAN]], dtype=np.float32)
    torn.flags.writeable = False
    np.testing.assert_array_equal(Pool.of(IDS, ("liver",), embeddings=torn).embeddings[0], [NAN, NAN])
