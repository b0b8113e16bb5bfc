"""What `next` hands out: held-out patients and the random lane are drawn, the strategy ranks the rest of the pool."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lib.ledger.ledger import Ledger
from lib.ledger.queuerows import Candidate
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.selection.ranking import Ranking, by_entropy, score_matrix
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.lineup import line_up
from lib.workflows.query import next_case, refresh_queues, release
from lib.workflows.services import Services

TASK = load_task("phantom_ct")
CONFIG = replace(load_settings(environ={}).query, seed=5)
SPLITS = ("pool", "calibration", "promotion")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """A ledger; nothing here asks the archive or the registry."""
    settings = load_settings([("var", str(tmp_path)), ("query.seed", "5")], environ={})
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    return Services(settings, {TASK.name: TASK}, None, ledger, None, b"k" * 32)  # type: ignore[arg-type]


def candidates(**counts: int) -> list[Candidate]:
    """Scored cases by split; the score of a case is its number."""
    return [
        Candidate(f"{split}.{number}", split, {"liver": float(number)}, 3)
        for split, count in counts.items()
        for number in range(count)
    ]


def entropy(cases: Sequence[Candidate], seed: int) -> Ranking:
    return by_entropy([c.series_uid for c in cases], score_matrix([c.scores for c in cases], ["liver"]), seed)


def arrive(services: Services, split: str, count: int) -> list[str]:
    uids = [f"{SPLITS.index(split) + 1}.{number}" for number in range(count)]
    for uid in uids:
        services.ledger.series.add(NewSeries(uid, f"9.{uid}", f"patient-{uid}", split, "CT", "phantom", instances=3))
        services.ledger.series.set_ready(uid, (), "frame", None)
    return uids


def test_the_strategy_ranks_pool_cases_alone_and_each_place_says_how_it_came_about() -> None:
    found = line_up(candidates(pool=20, calibration=4, promotion=4), "entropy", entropy, CONFIG, turn=0)
    lanes = [found.lanes.get(uid, "entropy") for uid, _, _ in found.places]
    assert Counter(lanes) == {"entropy": 18, "held-out": 8, "random": 2}
    ranked = [(uid, score) for (uid, score, _), lane in zip(found.places, lanes, strict=True) if lane == "entropy"]
    assert all(uid.startswith("pool.") for uid, _ in ranked)
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    best = ranked[0]
    whys = {uid: why for uid, _, why in found.places}
    assert whys[best[0]] == f"entropy, rank 1 of 18, seed 5: mean entropy {best[1]:.3f} nats over 1 label"
    drawn = [uid for uid, _, _ in found.places if found.lanes.get(uid) == "random"]
    assert whys[drawn[1]] == "random lane: drawn at random from the pool, whatever the strategy (draw 2 of 2, seed 5)"
    first = next(uid for uid, _, _ in found.places if found.lanes.get(uid) == "held-out")
    split = first.partition(".")[0]
    assert whys[first] == (
        f"held-out draw: a {split} patient, drawn at random, whatever a model says (draw 1 of 4, seed 5)"
    )
    assert all(math.isnan(score) for uid, score, _ in found.places if uid in found.lanes)


def test_what_a_model_says_of_held_out_patients_changes_nothing() -> None:
    """Scores of a new model move pool cases alone; held-out patients keep place and order."""
    known = candidates(pool=30, calibration=6, promotion=6)
    turned = [replace(c, scores={"liver": -c.scores["liver"]}, model_version=4) for c in known]
    one, other = (line_up(cases, "entropy", entropy, CONFIG, 0) for cases in (known, turned))
    assert one.lanes == other.lanes
    for place, (uid, _, _) in enumerate(one.places):
        assert uid not in one.lanes or other.places[place][0] == uid
    assert [uid for uid, _, _ in one.places] != [uid for uid, _, _ in other.places]


def test_the_same_seed_gives_the_same_order_whatever_the_order_of_the_candidates() -> None:
    known = candidates(pool=30, calibration=6, promotion=6)
    orders = [line_up(cases, "entropy", entropy, CONFIG, 4).places for cases in (known, known[::-1])]
    assert repr(orders[0]) == repr(orders[1])  # NaN equals nothing
    other = line_up(known, "entropy", entropy, replace(CONFIG, seed=6), 4)
    assert other.lanes != line_up(known, "entropy", entropy, CONFIG, 4).lanes


def test_without_a_model_and_without_cases_there_is_still_an_answer() -> None:
    unscored = [replace(c, scores={}, model_version=None) for c in candidates(pool=3, promotion=1)]
    assert len(line_up(unscored, "entropy", entropy, CONFIG, 0).places) == 4
    assert line_up([], "entropy", entropy, CONFIG, 0).places == []


def test_a_pool_that_is_drawn_at_random_has_no_lane_beside_it() -> None:
    found = line_up(candidates(pool=10, promotion=2), "random", lambda c, seed: entropy(c, seed), CONFIG, 0)
    assert set(found.lanes.values()) == {"held-out"}


def label(services: Services, uid: str, annotator: str, accept: bool = True) -> int:
    human = NewHuman(uid, TASK.name, annotator, nothing_found=True)
    parent = services.ledger.annotations.latest_draft(uid, TASK.name)
    human = replace(human, parent_id=parent.id if parent else None)
    return services.ledger.annotations.add_human(human, accept, agreement={"liver": 0.5} if parent else {})


def test_labelling_34_cases_brings_the_promotion_patients_that_the_gate_needs(services: Services) -> None:
    """The queue is made anew after each label, and three people work at it."""
    for split, count in (("pool", 28), ("calibration", 7), ("promotion", 7)):
        arrive(services, split, count)
    hands: dict[str, str] = {}
    splits: Counter[str] = Counter()
    for number in range(34 + 3):
        who = f"reader {number % 3}"
        if who in hands:
            uid = hands.pop(who)
            label(services, uid, who)
            splits[services.ledger.series.get(uid).split] += 1
        refresh_queues(services, TASK)
        case = next_case(services, TASK, "entropy", who)
        assert case is not None
        hands[who] = case.series_uid
    assert splits.total() == 34
    assert splits["promotion"] >= services.settings.gate.min_patients == 5
    assert splits["calibration"] in (4, 5, 6)
    lanes = Counter(row.lane for row in services.ledger.queue.leases(TASK.name))
    assert lanes.total() == 3


def test_the_lease_keeps_the_lane_and_a_correction_counts_to_it(services: Services) -> None:
    for split, count in (("pool", 20), ("promotion", 3)):
        for uid in arrive(services, split, count):
            services.ledger.annotations.add_draft(NewDraft(uid, TASK.name, "model", 1), scores={"liver": 0.5})
    refresh_queues(services, TASK)
    for number in range(12):
        case = next_case(services, TASK, "entropy", f"reader {number}")
        assert case is not None
        entry = next(e for e in services.ledger.queue.head(TASK.name, "entropy", 99) if e.series_uid == case.series_uid)
        assert (case.lane, case.why) == (entry.lane, entry.why)
        label(services, case.series_uid, f"reader {number}")
    found = services.ledger.corrections.list(TASK.name)
    assert Counter(correction.lane for correction in found) == {"entropy": 8, "held-out": 3, "random": 1}
    assert len({correction.annotation_id for correction in found}) == 12


def test_what_is_labelled_held_back_or_in_hand_is_not_handed_out(services: Services) -> None:
    uids = arrive(services, "pool", 4)
    label(services, uids[0], "anna")
    held = NewHuman(uids[1], TASK.name, "anna", nothing_found=True, held_reason="it is empty")
    services.ledger.annotations.add_human(held, accept=True)
    assert refresh_queues(services, TASK) == 2
    got = [next_case(services, TASK, "random", who) for who in ("ben", "cleo", "dora")]
    assert {case.series_uid for case in got if case} == set(uids[2:])
    assert got[2] is None


def test_a_case_that_is_given_back_takes_its_turn_and_is_offered_to_others(services: Services) -> None:
    arrive(services, "pool", 3)
    refresh_queues(services, TASK)
    case = next_case(services, TASK, "entropy", "anna")
    assert case is not None
    assert services.ledger.queue.turns(TASK.name) == 0
    release(services, TASK, case.series_uid, "anna")
    assert services.ledger.queue.turns(TASK.name) == 1
    other = next_case(services, TASK, "entropy", "ben")
    assert other is not None
    assert other.series_uid == case.series_uid
