"""What `next` hands out: held-out patients and the random lane are drawn, the strategy ranks the rest of the pool."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from lib.core.errors import InvalidInput
from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.ledger.queuerows import Candidate, LabelScores, QueueEntry
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.ledger.scores import Said
from lib.selection.config import StrategyName
from lib.selection.embeddings import Comparable
from lib.selection.ranking import Ranking
from lib.selection.strategies import STRATEGIES
from lib.server import describe
from lib.server.errors import status_of
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows import query
from lib.workflows.casepool import pool_of
from lib.workflows.jobrunner import JobRunner
from lib.workflows.lineup import line_up
from lib.workflows.query import (
    QueueNotReady,
    build_queues,
    hold,
    next_case,
    next_free,
    refresh_queues,
    release,
    why_none,
)
from lib.workflows.services import Services

TASK = load_task("phantom_ct")
SETTINGS = load_settings(environ={})
CONFIG = replace(SETTINGS.query, seed=5)
SPLITS = ("pool", "calibration", "promotion")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """A ledger; nothing here asks the archive or the registry."""
    given = [("var", str(tmp_path)), ("query.seed", "5"), ("uncertainty.kind", "ensemble")]
    settings = load_settings(given, environ={})
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    return Services(settings, {TASK.name: TASK}, None, ledger, None, b"k" * 32)  # type: ignore[arg-type]


def candidates(**counts: int) -> list[Candidate]:
    """Scored cases by split; the score of a case is its number."""
    return [
        Candidate(f"{split}.{number}", split, {"liver": LabelScores(entropy=float(number))}, 3)
        for split, count in counts.items()
        for number in range(count)
    ]


def entropy(cases: Sequence[Candidate], seed: int) -> Ranking:
    return STRATEGIES["entropy"](pool_of(TASK, cases), seed, SETTINGS.selection)


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
    told = f"mean entropy {best[1]:.3f} nats over 1 label, highest in liver ({best[1]:.3f})"
    assert whys[best[0]] == f"entropy, rank 1 of 18, seed 5: {told}"
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
    turned = [
        replace(c, scores={"liver": LabelScores(entropy=-c.scores["liver"].entropy)}, model_version=4) for c in known
    ]
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


def scored(services: Services, uids: Sequence[str], version: int = 1) -> None:
    """Drafts with scores and embeddings that differ from case to case."""
    for uid in uids:
        number = int(uid.partition(".")[2])
        draft = NewDraft(uid, TASK.name, "model", version)
        values = {name: {"liver": (number % 5) / 10} for name in ("bald", "margin", "disagreement")}
        evidence = {"volume_ml": {"liver": float(number % 3)}, "largest_probability": {"liver": (number % 7) / 10}}
        services.ledger.annotations.add_draft(
            draft,
            scores={"liver": number / 100},
            values=values | evidence,
            embedding=np.array([number % 4, number % 3, 1.0]),
        )


def order(services: Services, strategy: str) -> list[tuple[str, str]]:
    return [(entry.series_uid, entry.why) for entry in services.ledger.queue.head(TASK.name, strategy, 99)]


def test_the_settings_may_name_every_strategy() -> None:
    assert get_args(StrategyName) == tuple(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_hands_out_what_is_free_and_nothing_else(services: Services, strategy: str) -> None:
    """Labelled, waiting for review, held back, in hand, refused, unchecked, of another task: never picked."""
    uids = arrive(services, "pool", 16)
    arrive(services, "promotion", 2)
    scored(services, uids[:13])
    for uid, accept in zip(uids[:4], (True, True, True, False), strict=True):
        label(services, uid, "anna", accept)
    held = NewHuman(uids[4], TASK.name, "anna", nothing_found=True, held_reason="it is empty")
    services.ledger.annotations.add_human(held, accept=True)
    services.ledger.series.refuse(uids[5], "slice gaps must agree")
    services.ledger.series.add(NewSeries("1.99", "9", "p", "pool", "CT", "phantom", instances=3))  # not checked
    services.ledger.series.add(NewSeries("1.98", "9", "p", "pool", "MR", "phantom", instances=3))
    services.ledger.series.set_ready("1.98", (), "frame", None)
    hold(services, TASK, uids[6], "ben")
    got = []
    while (case := next_case(services, TASK, strategy, f"reader {len(got)}")) is not None:
        got.append(case)
        assert case.strategy == strategy
        if case.lane == strategy and strategy != "random":
            assert case.why.startswith(f"{strategy}, rank ")
            assert f", seed {services.settings.query.seed}: " in case.why
        if len(got) == 1:
            label(services, uids[7], "dora")  # by somebody else, behind the back of the queue
    expected = {*uids[7:], "3.0", "3.1"} - {uids[7]}
    assert {case.series_uid for case in got} - {uids[7]} == expected
    assert len(got) in (len(expected), len(expected) + 1)  # the first one may have been that case


def test_the_order_of_arrival_changes_no_queue(tmp_path: Path) -> None:
    found = []
    for number, arrived in enumerate((range(14), reversed(range(14)))):
        settings = load_settings([("var", str(tmp_path / str(number))), ("query.seed", "5")], environ={})
        ledger = Ledger(f"sqlite:///{tmp_path}/{number}.db")
        ledger.upgrade()
        made = Services(settings, {TASK.name: TASK}, None, ledger, None, b"k" * 32)  # type: ignore[arg-type]
        uids = [f"1.{n}" for n in arrived]
        for uid in uids:
            ledger.series.add(NewSeries(uid, f"9.{uid}", f"patient-{uid}", "pool", "CT", "phantom", instances=3))
            ledger.series.set_ready(uid, (), "frame", None)
        scored(made, uids)
        for uid in sorted(uids)[:3]:
            label(made, uid, "anna")
        assert build_queues(made, TASK, tuple(STRATEGIES)) == 11
        found.append({name: order(made, name) for name in STRATEGIES})
        ledger.close()
    assert found[0] == found[1]
    assert len({tuple(uid for uid, _ in queue) for queue in found[0].values()}) > 5


def test_drafts_of_two_models_rank_and_a_pick_says_how_old_its_scores_are(services: Services) -> None:
    uids = arrive(services, "pool", 6)
    scored(services, uids[3:], version=1)
    scored(services, uids[:3], version=2)
    settings = replace(services.settings, query=replace(services.settings.query, random_share=0.0))
    case = next_case(replace(services, settings=settings), TASK, "entropy", "anna")
    assert case is not None
    assert (case.series_uid, case.model_version, case.champion_version) == (uids[5], 1, None)
    assert case.why.endswith("(scored by version 1, the champion is 2, 0 days ago)")


def serve(services: Services, version: int, verdict: str = "promoted") -> None:
    services.ledger.models.finish(services.ledger.models.begin(TASK.name, version, verdict, "better"))


def test_right_after_a_promotion_all_scores_are_said_to_be_old(services: Services) -> None:
    scored(services, arrive(services, "pool", 6), version=1)
    serve(services, 1)
    assert not any("scored by" in why for _, why in reasons(services, "entropy"))
    serve(services, 2)
    found = [why for lane, why in reasons(services, "entropy") if lane == "entropy"]
    assert found
    assert all(why.endswith("(scored by version 1, the champion is 2, 0 days ago)") for why in found)
    case = next_case(services, TASK, "entropy", "anna")
    assert case is not None
    assert (case.model_version, case.champion_version) == (1, 2)
    assert case.scored_at is not None


def test_after_a_rollback_the_scores_of_the_champion_count_where_there_are_any_and_others_are_old(
    services: Services,
) -> None:
    uids = arrive(services, "pool", 6)
    scored(services, uids[3:], version=1)
    scored(services, uids, version=2)
    serve(services, 2)
    serve(services, 1, "rollback")
    candidates = services.ledger.queue.candidates(TASK.name, services.ledger.models.serving(TASK.name))
    assert [case.model_version for case in candidates] == [2, 2, 2, 1, 1, 1]
    build_queues(services, TASK, ("entropy",))
    told = {entry.series_uid: "(scored by version 2, the champion is 1" in entry.why for entry in head(services)}
    assert told == {uid: uid in uids[:3] and lane == "entropy" for uid, lane in lanes(services).items()}


def head(services: Services) -> list[QueueEntry]:
    return services.ledger.queue.head(TASK.name, "entropy", 100)


def lanes(services: Services) -> dict[str, str]:
    return {entry.series_uid: entry.lane for entry in head(services)}


def reasons(services: Services, strategy: str) -> list[tuple[str, str]]:
    build_queues(services, TASK, (strategy,))
    return [(entry.lane, entry.why) for entry in services.ledger.queue.head(TASK.name, strategy, 100)]


def test_after_a_promotion_the_labelled_cases_are_what_new_ones_are_held_against(services: Services) -> None:
    uids = arrive(services, "pool", 24)
    for version in (1, 2):
        look(services, uids, version)
        for uid in uids[:4] if version == 1 else ():
            label(services, uid, "anna")
        serve(services, version)
    moment = query._moment(services, TASK, by_embedding=True)
    assert (moment.champion, moment.compared) == (2, 2)
    labelled = services.ledger.queue.labelled(TASK.name, "pool", 2)
    pool = pool_of(TASK, services.ledger.queue.candidates(TASK.name, 2, 2), labelled, moment)
    assert sorted(Comparable.of(pool).anchor_ids) == sorted(uids[:4])
    told = [why for lane, why in reasons(services, "rare") if "further from the labelled cases" in why]
    assert told


def test_until_nearly_all_is_scored_anew_embeddings_of_the_version_before_are_compared(services: Services) -> None:
    uids = arrive(services, "pool", 20)
    look(services, uids, 1)
    label(services, uids[0], "anna")
    serve(services, 2)
    look(services, uids[:18], 2)
    assert query._moment(services, TASK, by_embedding=True).compared == 1
    look(services, uids[18:19], 2)
    assert query._moment(services, TASK, by_embedding=True).compared == 2
    assert query._moment(services, TASK, by_embedding=False).compared is None


def look(services: Services, uids: Sequence[str], version: int) -> None:
    """What a version says of series, without drafts."""
    for number, uid in enumerate(uids):
        said = Said({"liver": number / 100}, {"volume_ml": {"liver": 30.0}}, np.array([number, version], np.float32))
        services.ledger.scorings.add(uid, TASK.name, version, said)


def test_queues_are_kept_for_the_strategies_in_use_alone(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(services, "pool", 5)
    refresh_queues(services, TASK)
    queue = services.ledger.queue
    kept = {services.settings.query.strategy, "random"}
    assert {name for name in STRATEGIES if queue.built_at(TASK.name, name)} == kept
    assert next_case(services, TASK, "diverse", "anna") is not None
    first = queue.built_at(TASK.name, "diverse")
    assert first is not None
    refresh_queues(services, TASK)
    later = queue.built_at(TASK.name, "diverse")
    assert later is not None
    assert later > first
    monkeypatch.setattr(query, "IN_USE", timedelta(0))
    refresh_queues(services, TASK)
    assert queue.built_at(TASK.name, "diverse") == later


def test_a_queue_that_nobody_kept_is_made_anew_when_it_is_asked_for(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(services, "pool", 1)
    assert next_case(services, TASK, "margin", "anna") is not None
    arrive(services, "promotion", 1)
    assert next_case(services, TASK, "margin", "ben") is None
    monkeypatch.setattr(query, "STALE", timedelta(0))
    case = next_case(services, TASK, "margin", "ben")
    assert case is not None
    assert case.lane == "held-out"


def test_of_many_cases_the_worker_builds_the_queue_that_is_asked_for(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "SMALL_POOL", 2)
    arrive(services, "pool", 3)
    refresh_queues(services, TASK)
    mine = next_case(services, TASK, "random", "anna")
    for _ in range(2):
        with pytest.raises(QueueNotReady, match=r"bald has no queue yet: .* until then ask for \w+ or random"):
            next_case(services, TASK, "bald", "ben")
    with pytest.raises(QueueNotReady):
        next_free(services, TASK, 3, "bald")
    again = next_case(services, TASK, "bald", "anna")  # who holds a case gets it, whatever he asks for
    assert mine is not None
    assert again is not None
    assert again.series_uid == mine.series_uid
    assert [job.kind for job in services.ledger.jobs.list(task=TASK.name)] == ["rank"]
    assert JobRunner(services, None, "worker").one_job()  # type: ignore[arg-type]
    assert services.ledger.jobs.list(task=TASK.name)[0].result == {"cases": 3}
    case = next_case(services, TASK, "bald", "ben")
    assert case is not None
    assert case.strategy == "bald"


def test_an_unknown_strategy_is_refused_with_the_list(services: Services) -> None:
    for ask in (lambda: next_case(services, TASK, "magic", "anna"), lambda: next_free(services, TASK, 1, "magic")):
        with pytest.raises(InvalidInput, match=f"one of {', '.join(STRATEGIES)}, got 'magic'"):
            ask()
    for count in (0, -1, 10_001, 10**30):
        with pytest.raises(InvalidInput, match=f"from 1 to 10000, got {count}"):
            next_free(services, TASK, count)


@pytest.mark.parametrize("strategy", ["bald", "disagreement"])
def test_a_strategy_that_needs_samples_is_refused_with_the_way_out_where_there_are_none(
    services: Services, strategy: str
) -> None:
    scored(services, arrive(services, "pool", 3))
    alone = replace(services.settings, uncertainty=replace(services.settings.uncertainty, kind="entropy"))
    without = replace(services, settings=alone)
    wanted = f"^{strategy} needs samples: set uncertainty.kind to dropout, tta or ensemble; or ask for one of default, "
    for ask in (lambda: next_case(without, TASK, strategy, "anna"), lambda: next_free(without, TASK, 1, strategy)):
        with pytest.raises(InvalidInput, match=wanted) as refused:
            ask()
        assert status_of(refused.value) == 400
    told = describe.strategies(without)
    assert [name for name, known in told.items() if not known["available"]] == ["bald", "disagreement"]
    assert told[strategy]["reason"] == f"{strategy} needs samples: set uncertainty.kind to dropout, tta or ensemble"
    assert all(known["available"] and not known["reason"] for known in describe.strategies(services).values())
    assert next_case(services, TASK, strategy, "anna") is not None


def test_why_there_is_no_case_is_said_in_words(services: Services) -> None:
    assert next_case(services, TASK, "", "anna") is None
    assert "holds no series that is ready" in why_none(services, TASK, "anna")
    uids = arrive(services, "pool", 3)
    label(services, uids[0], "anna")
    hold(services, TASK, uids[1], "ben")
    release(services, TASK, uids[2], "anna")
    assert next_case(services, TASK, "rare", "anna") is None
    assert why_none(services, TASK, "anna").startswith(
        "no case is free: of 3 ready series 1 are labelled, 1 in somebody's hands, 1 you gave back a while ago;"
    )


def test_the_next_cases_of_a_night_are_named_and_not_taken(services: Services) -> None:
    uids = arrive(services, "pool", 9)
    scored(services, uids)
    taken = next_case(services, TASK, "entropy", "anna")
    night = next_free(services, TASK, 4, "entropy")
    assert taken is not None
    assert len(night) == 4
    assert taken.series_uid not in {entry.series_uid for entry in night}
    assert len(services.ledger.queue.leases(TASK.name)) == 1
    following = [next_case(services, TASK, "entropy", f"reader {n}") for n in range(4)]
    assert [case.series_uid for case in following if case] == [entry.series_uid for entry in night]


def test_a_case_whose_lease_is_over_is_among_the_next_ones_again(services: Services, tmp_path: Path) -> None:
    arrive(services, "pool", 2)
    moments = [utc_now()]
    later = replace(services, ledger=Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: moments[-1]))
    taken = next_case(later, TASK, "random", "anna")
    assert taken is not None
    assert taken.series_uid not in {entry.series_uid for entry in next_free(later, TASK, 2, "random")}
    moments.append(moments[0] + timedelta(seconds=services.settings.query.lease_s))
    again = later.ledger.queue.head(TASK.name, "random", only_free=True)
    assert again[0].series_uid == taken.series_uid
    assert len(again) == 2
