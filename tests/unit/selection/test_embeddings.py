"""Which embeddings are compared."""

from lib.selection.cases import Labelled
from lib.selection.embeddings import Comparable, covering
from lib.selection.pool import NO_MODEL, Pool


def test_the_version_that_covers_most_is_compared_and_the_champion_s_once_it_covers_nearly_as_much() -> None:
    assert covering({1: 100, 2: 94}, champion=2) == 1
    assert covering({1: 100, 2: 95}, champion=2) == 2
    assert covering({1: 95, 2: 100}, champion=1) == 1  # after a rollback
    assert covering({1: 7, 2: 7}, champion=3) == 2
    assert covering({}, champion=2) == NO_MODEL


def test_pool_and_labelled_cases_together_say_which_version_is_compared() -> None:
    labelled = Labelled.of(["x", "y"], [[True], [True]], [[1.0], [2.0]], [1, 1])
    pool = Pool.of("abc", ("liver",), embeddings=[[1.0], [2.0], [3.0]], versions=[1, 2, 2], labelled=labelled)
    space = Comparable.of(pool)
    assert (space.version, space.cases.tolist(), space.anchor_ids) == (1, [0], ("x", "y"))
