"""Lanes take turns by their shares, wherever a list begins; each case has one place."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import InvalidInput
from lib.selection.lanes import HELD_OUT, RANDOM, STRATEGY, Shares, draw, interleave

SHARES = Shares(random=0.1, held_out=0.3)
ids = st.lists(st.integers(0, 999).map(str), unique=True, max_size=30)
shares = st.builds(Shares, st.floats(0, 1), st.floats(0, 0.99))


def cases(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]


def lanes_of(turns: range, of: Shares = SHARES) -> list[str]:
    return [of.lane(turn) for turn in turns]


def test_of_a_hundred_turns_each_lane_has_its_share() -> None:
    for start in (0, 7, 1000):
        found = lanes_of(range(start, start + 100))
        assert (found.count(HELD_OUT), found.count(RANDOM), found.count(STRATEGY)) == (30, 7, 63)


def test_the_first_turns_mix_all_lanes() -> None:
    assert "".join(lane[0] for lane in lanes_of(range(10))) == "shsshsrshs"


@pytest.mark.parametrize(("random_share", "held_out"), [(-0.1, 0.3), (1.1, 0.3), (0.1, 1.0), (0.1, -0.1)])
def test_shares_that_are_none_are_refused(random_share: float, held_out: float) -> None:
    with pytest.raises(InvalidInput, match="0 to 1 at random and 0 to below 1 held out"):
        Shares(random_share, held_out)


def test_a_draw_is_a_share_of_the_cases_tied_to_ids_and_seed() -> None:
    everyone = cases("c", 40)
    drawn = draw(everyone, 5, 0.1)
    assert len(drawn) == 4
    assert draw(everyone[::-1], 5, 0.1) == drawn
    assert draw(everyone, 6, 0.1) != drawn
    assert draw(everyone, 5, 1.0)[:4] == drawn
    assert draw(everyone, 5, 0.0) == draw([], 5, 0.5) == ()
    assert len(draw(everyone[:3], 5, 0.1)) == 1


def test_what_is_left_of_a_draw_stays_when_both_lanes_are_labelled_by_their_shares() -> None:
    everyone = cases("c", 100)
    first = draw(everyone, 0, 0.1)
    ranked = [case for case in everyone if case not in first]
    left = [*first[1:], *ranked[9:]]  # one of the lane and nine of the strategy are labelled
    assert draw(left, 0, 0.1) == first[1:]


def test_held_out_groups_take_turns_and_an_empty_one_leaves_its_turn_to_the_other() -> None:
    places = interleave(cases("s", 20), cases("r", 2), [cases("c", 1), cases("p", 4)], SHARES)
    held_out = [place.case for place in places if place.lane == HELD_OUT]
    assert held_out == ["c0", "p0", "p1", "p2", "p3"]
    assert [place.case for place in places[:7]] == ["s0", "c0", "s1", "s2", "p0", "s3", "r0"]


@pytest.mark.parametrize(
    ("ranked", "drawn", "groups", "expected"),
    [
        ((), ("r0", "r1"), (("c0",),), ["r0", "c0", "r1"]),
        (("s0",), (), (("c0",), ("p0",)), ["s0", "c0", "p0"]),
        (("s0", "s1"), ("r0",), (), ["s0", "s1", "r0"]),
        ((), (), (), []),
    ],
)
def test_a_lane_without_cases_leaves_its_turns_to_the_others(ranked, drawn, groups, expected) -> None:
    assert [place.case for place in interleave(ranked, drawn, groups, SHARES)] == expected


def test_without_a_share_of_their_own_held_out_cases_come_last() -> None:
    places = interleave(cases("s", 3), [], [cases("c", 2)], Shares(0.0, 0.0))
    assert [place.case for place in places] == ["s0", "s1", "s2", "c0", "c1"]


def test_a_case_in_two_lanes_has_the_place_that_comes_first() -> None:
    places = interleave(["a", "b", "c"], ["c", "d"], [["a", "e"]], SHARES)
    assert sorted(place.case for place in places) == ["a", "b", "c", "d", "e"]
    assert {place.case: place.lane for place in places}["a"] == STRATEGY


@given(ranked=ids, drawn=ids, first=ids, second=ids, of=shares, turn=st.integers(0, 10_000))
def test_every_case_has_one_place_in_the_order_of_a_lane(ranked, drawn, first, second, of, turn) -> None:
    places = interleave(ranked, drawn, [first, second], of, turn)
    assert sorted(place.case for place in places) == sorted({*ranked, *drawn, *first, *second})
    for lane, source in ((STRATEGY, ranked), (RANDOM, drawn)):
        mine = [place.case for place in places if place.lane == lane]
        assert mine == [case for case in source if case in set(mine)]


@given(count=st.integers(1, 40), handed=st.integers(0, 40), turn=st.integers(0, 1000))
def test_a_list_that_is_made_anew_goes_on_where_the_last_one_was(count: int, handed: int, turn: int) -> None:
    """What was handed out leaves the list; the rest is the list of the next turn."""
    ranked, drawn, groups = cases("s", count), cases("r", count // 5), [cases("c", count // 3), cases("p", count // 4)]
    before = interleave(ranked, drawn, groups, SHARES, turn)
    gone = {place.case for place in before[:handed]}

    def left(kept: list[str]) -> list[str]:
        return [case for case in kept if case not in gone]

    groups_left = [left(group) for group in groups]
    after = interleave(left(ranked), left(drawn), groups_left, SHARES, turn + len(gone))
    assert after == before[handed:]


def test_a_label_after_each_list_still_gives_each_lane_its_share() -> None:
    """One annotator, and the list is made anew after each label: the first place alone is ever handed out."""
    rng = random.Random(0)
    pool, held_out = cases("s", 200), cases("p", 60)
    taken: list[str] = []
    for turn in range(100):
        drawn = draw(pool, 0, 0.1)
        ranked = [case for case in pool if case not in drawn]
        rng.shuffle(ranked)  # as scores change
        first = interleave(ranked, drawn, [held_out], SHARES, turn)[0]
        taken.append(first.lane)
        (held_out if first.lane == HELD_OUT else pool).remove(first.case)
    assert (taken.count(HELD_OUT), taken.count(RANDOM), taken.count(STRATEGY)) == (30, 7, 63)
