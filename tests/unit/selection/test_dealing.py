"""Quotas are kept to within a place or two, caps as long as they can be."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lib.selection.cases import Labelled
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota, deal, place_quotas
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking
from pools import OPTIONS, facts, order_of

NO_CAPS = replace(OPTIONS, patient_cap=0, site_cap=1.0)


def quota(name: str, share: float, order: list[int], count: int) -> Quota:
    return Quota(name, share, np.array(order, dtype=np.int64), np.zeros(count), lambda i: f"case {i}")


def quotas_of(ranking: Ranking) -> list[str]:
    return [ranking.reasons[i].removeprefix("quota of ").split(":")[0] for i in ranking.order]


@pytest.mark.parametrize("seed", range(5))
def test_in_every_run_of_places_a_quota_has_its_share(seed: int) -> None:
    shares = (0.5, 0.3, 0.15, 0.05)
    places = place_quotas(shares, 0, 400, seed)
    for length in (3, 10, 40, 400):
        for start in range(0, 401 - length, length):
            counts = Counter(places[start : start + length])
            assert all(abs(counts[number] - share * length) <= 2 + 1e-9 for number, share in enumerate(shares))


def test_places_go_on_from_those_of_the_labelled_cases() -> None:
    assert place_quotas((2, 1, 1), 7, 20, 3) == place_quotas((2, 1, 1), 0, 27, 3)[7:]
    assert place_quotas((1, 0, 3), 0, 50, 3).count(1) == 0
    assert place_quotas((), 0, 2, 3) == [0, 0]


def test_a_ranking_begins_with_the_place_after_the_labelled_cases() -> None:
    quotas = [quota(name, 1, [number], 3) for number, name in enumerate("xyz")]
    for labelled in range(6):
        before = Labelled.of([f"l{i}" for i in range(labelled)], np.empty((labelled, 0)))
        ranking = deal(Pool.of("abc", (), labelled=before), 1, NO_CAPS, quotas)
        assert quotas_of(ranking)[0] == "xyz"[place_quotas((1, 1, 1), labelled, 1, 1)[0]]
    assert len({place_quotas((1, 1, 1), labelled, 1, 1)[0] for labelled in range(6)}) == 3


def test_a_ranking_has_as_many_cases_of_a_quota_as_its_quota() -> None:
    pool = Pool.of([f"case {i}" for i in range(60)], ())
    blocks = [list(range(start, start + 20)) for start in (0, 20, 40)]
    quotas = [quota(name, share, block, 60) for name, share, block in zip("xyz", (5, 3, 2), blocks, strict=True)]
    ranking = deal(pool, 1, NO_CAPS, quotas)
    counts = Counter(quotas_of(ranking)[:30])
    assert all(abs(counts[name] - wanted) <= 1 for name, wanted in zip("xyz", (15, 9, 6), strict=True))
    for block in blocks:  # each in the order of its quota
        assert [i for i in ranking.order.tolist() if i in block] == block


def test_a_quota_without_cases_hands_its_places_to_the_next() -> None:
    pool = Pool.of("abcd", ())
    ranking = deal(
        pool, 1, NO_CAPS, [quota("empty", 0.9, [], 4), quota("next", 0.05, [2, 1], 4), quota("off", 0, [3], 4)]
    )
    assert order_of(ranking, pool)[:2] == ["c", "b"]
    assert quotas_of(ranking)[:3] == ["next", "next", "uncertainty"]


def test_behind_the_depth_cases_stand_by_uncertainty() -> None:
    pool = Pool.of("abcde", ("liver",), quantities={"entropy": [[0.5], [0.1], [0.9], [0.3], [0.7]]})
    ranking = deal(pool, 1, replace(NO_CAPS, depth=2), [quota("x", 1, [1, 3, 0, 2, 4], 5)])
    assert order_of(ranking, pool) == ["b", "d", "c", "e", "a"]
    assert ranking.reasons[2] == "mean entropy 0.900 nats over 1 label, highest in liver (0.900)"
    np.testing.assert_array_equal(ranking.scores, [0.5, 0.0, 0.9, 0.0, 0.7])


def ranked(options: SelectionConfig, pool: Pool) -> list[str]:
    return order_of(deal(pool, 1, options, [quota("x", 1, list(range(len(pool))), len(pool))]), pool)


def test_patients_take_turns_and_those_with_labels_had_theirs() -> None:
    where = facts("p p p q q -", "")
    options = replace(OPTIONS, patient_cap=1, site_cap=1.0)
    pool = Pool.of("abcdef", (), facts=where)
    assert ranked(options, pool) == ["a", "d", "f", "b", "e", "c"]
    assert ranked(replace(options, patient_cap=2), pool) == ["a", "b", "d", "e", "f", "c"]
    assert ranked(replace(options, patient_cap=0), pool) == list("abcdef")
    labelled = Labelled.of(["x"], np.empty((1, 0)), facts=facts("p", ""))
    assert ranked(options, Pool.of("abcdef", (), facts=where, labelled=labelled)) == ["d", "f", "a", "e", "b", "c"]


def test_cases_of_unknown_patients_are_not_taken_for_one_patient() -> None:
    assert ranked(OPTIONS, Pool.of("abc", (), facts=facts("- - -", "- - -"))) == ["a", "b", "c"]


def test_a_site_keeps_below_its_share_while_others_have_cases() -> None:
    pool = Pool.of("abcdefgh", (), facts=facts("", "A A A A A A B B"))
    assert ranked(replace(OPTIONS, site_cap=0.5), pool) == ["a", "g", "b", "h", "c", "d", "e", "f"]
    assert ranked(replace(OPTIONS, site_cap=1.0), pool) == list("abcdefgh")
    unknown = Pool.of("abcd", (), facts=facts("", "- - - B"))
    assert ranked(replace(OPTIONS, site_cap=0.5), unknown) == list("abcd")
    labelled = Labelled.of(["x", "y"], np.empty((2, 0)), facts=facts("", "A A"))
    begun = Pool.of("abcd", (), facts=facts("", "A A B B"), labelled=labelled)
    assert ranked(replace(OPTIONS, site_cap=0.5), begun) == ["c", "d", "a", "b"]


@pytest.mark.parametrize("seed", range(4))
def test_caps_are_kept_as_long_as_they_can_be(seed: int) -> None:
    chance = np.random.default_rng(seed)
    patients = chance.integers(0, 12, 40)
    where = facts(" ".join(map(str, patients)), " ".join(f"site{patient % 3}" for patient in patients))
    options = replace(OPTIONS, site_cap=0.4)
    pool = Pool.of([f"case {i:02d}" for i in range(40)], (), facts=where)
    order = [pool.ids.index(case) for case in ranked(options, pool)]
    seen_patients: Counter[int] = Counter()
    seen_sites: Counter[int] = Counter()
    for place, i in enumerate(order):
        patient, limit = int(patients[i]), math.ceil(0.4 * (place + 1))

        def broken(patient: int, limit: int = limit) -> int:
            return seen_patients[patient] + (seen_sites[patient % 3] + 1 > limit)

        assert broken(patient) == min(broken(int(patients[j])) for j in order[place:])
        seen_patients[patient] += 1
        seen_sites[patient % 3] += 1
