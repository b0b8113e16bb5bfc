"""The ledger's rows as the pool that strategies rank; what is not known stays empty."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.values import LabelEvidence, Mask, Prediction
from lib.ledger.ledger import Ledger
from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores
from lib.ledger.rows import NewDraft, NewSeries
from lib.selection.strategies import STRATEGIES
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.casepool import Moment, pool_of
from lib.workflows.presegment import kept_values

TASK = load_task("phantom_ct")
NAMES = TASK.schema.names
OPTIONS = load_settings(environ={}).selection
NAN = float("nan")


def vector(*numbers: float) -> bytes:
    return np.array(numbers, dtype="<f4").tobytes()


def case(uid: str, version: int | None, numbers: bytes = b"", **scores: LabelScores) -> Candidate:
    return Candidate(uid, "pool", scores, version, f"patient {uid}", "north", "acme", "abdomen", numbers)


def labelled(uid: str, numbers: bytes, *labels: str) -> LabelledCase:
    return LabelledCase(uid, frozenset(labels), numbers, "p", "south", "", "")


def test_every_value_has_its_place() -> None:
    scores = LabelScores(0.5, 0.25, 0.125, 0.75, 30.0, 1.0000001)
    cases = [case("a", 4, vector(1, 2), spleen=scores, ghost=scores), case("b", None)]
    pool = pool_of(TASK, cases, [labelled("c", vector(3, 4), "liver")], Moment(5, 4))
    spleen = NAMES.index("spleen")
    found = {name: table[0, spleen] for name, table in pool.quantities.items()}
    assert found == {"entropy": 0.5, "bald": 0.25, "margin": 0.125, "disagreement": 0.75}
    assert (pool.volumes_ml[0, spleen], pool.presence[0, spleen]) == (30.0, 1.0)
    assert (pool.volumes_ml.sum(), np.isnan(pool.presence).sum()) == (30.0, 2 * len(NAMES) - 1)
    np.testing.assert_array_equal(pool.embeddings, [[1, 2], [NAN, NAN]])
    assert (pool.versions.tolist(), pool.embedded_by.tolist(), pool.champion) == ([4, -1], [4, 4], 5)
    assert (pool.facts.patients, pool.facts.sites) == (("patient a", "patient b"), ("north", "north"))
    assert (pool.facts.scanners[0], pool.facts.protocols[0]) == ("acme", "abdomen")
    assert pool.labelled.presence.tolist() == [[name == "liver" for name in NAMES]]
    np.testing.assert_array_equal(pool.labelled.embeddings, [[3, 4]])


def test_an_embedding_of_another_width_than_the_first_one_is_left_out() -> None:
    cases = [case("a", 6), case("b", 5, vector(1, 2)), case("c", 4, vector(1, 2, 3))]
    pool = pool_of(TASK, cases, [labelled("e", vector(1, 2, 3)), labelled("f", b"")], Moment(6, 5))
    np.testing.assert_array_equal(pool.embeddings, [[NAN, NAN], [1, 2], [NAN, NAN]])
    assert np.isnan(pool.labelled.embeddings).all()
    assert pool.labelled.embeddings.shape == (2, 2)


def test_scores_are_as_old_as_the_time_that_passed_since_they_were_made() -> None:
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)
    cases = [replace(case("a", 5), scored_at=now - timedelta(days=2, hours=12)), case("b", None)]
    np.testing.assert_array_equal(pool_of(TASK, cases, moment=Moment(now=now)).ages_days, [2.5, NAN])


def test_a_label_that_the_task_calls_rare_in_other_letters_is_that_label() -> None:
    assert pool_of(replace(TASK, rare=(NAMES[0].upper(),)), [case("a", None)]).rare == (NAMES[0],)


def test_what_does_not_look_at_the_model_gets_no_values() -> None:
    pool = pool_of(TASK, [case("a", 4, vector(1, 2), liver=LabelScores(0.5))], with_values=False)
    assert np.isnan(pool.quantities["entropy"]).all()
    assert pool.embeddings.shape == (1, 0)
    assert pool.facts.sites == ("north",)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("champion", [4, 5])
def test_scores_of_two_models_are_ranked_and_those_of_another_one_than_the_champion_are_said_to_be(
    name: str, champion: int
) -> None:
    now = datetime(2026, 3, 4, tzinfo=UTC)
    cases = [
        replace(
            case(str(n), 4 + n % 2, vector(n, 1) if n % 2 else b"", liver=LabelScores(n / 10, volume_ml=n)),
            scored_at=now - timedelta(days=3, hours=n),
        )
        for n in range(6)
    ]
    pool = pool_of(TASK, cases, [labelled("x", vector(0, 0), "liver")], Moment(champion, 5, now))
    ranking = STRATEGIES[name](pool, 3, OPTIONS)
    assert sorted(ranking.order.tolist()) == list(range(6))
    words = f"(scored by version {9 - champion}, the champion is {champion}, 3 days ago)"
    old = [reason.endswith(words) for reason in ranking.reasons]
    assert old == [STRATEGIES[name].by_model and 4 + number % 2 != champion for number in range(6)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_empty_pool_and_a_single_case_without_a_model_are_ranked(name: str) -> None:
    assert len(STRATEGIES[name](pool_of(TASK, []), 0, OPTIONS)) == 0
    assert STRATEGIES[name](pool_of(TASK, [case("a", None)]), 0, OPTIONS).order.tolist() == [0]


def test_all_that_a_prediction_says_of_a_case_reaches_the_pool(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((2, 3, 4), (3.0, 1.0, 1.0))
    evidence = LabelEvidence(30.0, 0.75, components=2, samples_dice=NAN)
    prediction = Prediction(
        Mask(np.zeros((2, 3, 4), np.uint8), grid, TASK.schema),
        np.zeros((2, 3, 4), np.float16),
        {"liver": 0.5},
        np.ones(2, np.float32),
        quantities={"entropy": {"liver": 0.5}, "margin": {"liver": 0.125}},
        evidence={"liver": evidence},
    )
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    ledger.series.add(NewSeries("1.1", "9", "p", "pool", "CT"))
    ledger.series.set_ready("1.1", (), "frame", None)
    draft = NewDraft("1.1", TASK.name, "model", 7)
    kept = {"scores": prediction.scores, "embedding": prediction.embedding, "values": kept_values(prediction)}
    ledger.annotations.add_draft(draft, **kept)
    pool = pool_of(TASK, ledger.queue.candidates(TASK.name, compared=7), (), Moment(compared=7))
    liver = NAMES.index("liver")
    assert (pool.quantities["entropy"][0, liver], pool.quantities["margin"][0, liver]) == (0.5, 0.125)
    assert np.isnan(pool.quantities["bald"]).all()
    assert (pool.volumes_ml[0, liver], pool.presence[0, liver]) == (30.0, 0.75)
    assert (pool.embeddings.tolist(), pool.versions.tolist()) == ([[1.0, 1.0]], [7])
    ledger.close()
