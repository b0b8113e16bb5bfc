"""Tags and cohorts outlive everything else; what curation reads of a case is of its images as they are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ledger_support import TASK, Clock, add_series, draft, human

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger.curationrows import CURATED_STATES, Wanted
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewSeries
from lib.ledger.scores import Said

UIDS = ("1.1", "1.2", "1.3")


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    add_series(ledger, *UIDS)
    return ledger


def trail(ledger: Ledger, subject: str) -> list[tuple[str, str, object]]:
    """Actor, action and details of a subject, the oldest first."""
    return [(row.actor, row.action, dict(row.details)) for row in reversed(ledger.audit.list(subject=subject))]


def test_a_tag_is_said_once_and_taken_back_and_both_are_in_the_trail(filled: Ledger) -> None:
    curation = filled.curation
    assert curation.tag(["1.2", "1.1", "1.2"], ["metal", "thick"], "anna") == 4
    assert curation.tag(["1.1", "1.3"], ["metal"], "ben") == 1
    assert curation.tags() == {"metal": 3, "thick": 2}
    assert curation.untag(["1.1", "1.3"], ["thick"], "ben") == 1
    assert curation.untag(["1.1"], ["thick"], "ben") == 0
    assert {case.series_uid: case.tags for case in curation.cases(TASK)} == {
        "1.1": ("metal",),
        "1.2": ("metal", "thick"),
        "1.3": ("metal",),
    }
    assert trail(filled, "tag metal") == [
        ("anna", "tag.added", {"series": ["1.1", "1.2"]}),
        ("ben", "tag.added", {"series": ["1.3"]}),
    ]
    assert trail(filled, "tag thick")[1:] == [("ben", "tag.removed", {"series": ["1.1"]})]


@pytest.mark.parametrize("name", ["", "Metal", "-x", "a b", "../up", "x" * 65, "ä"])
def test_a_name_that_could_not_be_a_file_s_is_refused(filled: Ledger, name: str) -> None:
    with pytest.raises(InvalidInput, match="lower-case letters, digits"):
        filled.curation.tag(["1.1"], [name], "anna")
    with pytest.raises(InvalidInput, match="a cohort's name has 1 to 64"):
        filled.curation.create(name, "", "anna")


def test_a_series_that_is_not_there_changes_nothing(filled: Ledger) -> None:
    filled.curation.create("odd", "", "anna")
    with pytest.raises(NotFound, match=r"no series 9\.9; nothing was changed"):
        filled.curation.tag(["1.1", "9.9"], ["metal"], "anna")
    with pytest.raises(NotFound, match=r"no series 9\.9"):
        filled.curation.add("odd", ["1.1", "9.9"], "anna")
    assert filled.curation.tags() == {}
    assert filled.curation.members("odd") == []
    with pytest.raises(InvalidInput, match="got none"):
        filled.curation.tag(["1.1"], [], "anna")


def test_a_cohort_grows_shrinks_and_goes_and_the_trail_knows_what_it_had(filled: Ledger, clock: Clock) -> None:
    curation = filled.curation
    curation.create("odd", "thick slices", "anna")
    with pytest.raises(Conflict, match="there is a cohort odd already"):
        curation.create("odd", "", "ben")
    assert curation.add("odd", ["1.3", "1.1"], "anna") == 2
    clock.turn(60)
    assert curation.add("odd", ["1.1", "1.2"], "ben") == 1
    assert [(m.series_uid, m.author) for m in curation.members("odd")] == [
        ("1.1", "anna"),
        ("1.2", "ben"),
        ("1.3", "anna"),
    ]
    assert curation.members("odd")[1].added_at == clock.now
    assert curation.remove("odd", ["1.1", "7.7"], "ben") == 1
    (row,) = curation.cohorts()
    assert (row.name, row.description, row.author, row.size) == ("odd", "thick slices", "anna", 2)
    assert curation.cohort("odd") == row
    curation.delete("odd", "cleo")
    assert curation.cohorts() == []
    for missing in (curation.cohort, curation.members):
        with pytest.raises(NotFound, match="there is no cohort 'odd'; there are: none yet"):
            missing("odd")
    assert trail(filled, "cohort odd")[-2:] == [
        ("ben", "cohort.removed", {"series": ["1.1"]}),
        ("cleo", "cohort.deleted", {"series": ["1.2", "1.3"]}),
    ]
    curation.create("odd", "", "anna")
    assert curation.members("odd") == []


def test_many_series_are_taken_at_once(ledger: Ledger) -> None:
    uids = [f"1.{n}" for n in range(1201)]
    for uid in uids:
        ledger.series.add(NewSeries(uid, "s", "p", "pool", "CT", instances=3))
    ledger.curation.create("all", "", "anna")
    assert ledger.curation.add("all", uids, "anna") == len(uids)
    assert ledger.curation.cohort("all").size == len(uids)
    assert ledger.curation.remove("all", uids, "anna") == len(uids)


def test_a_case_has_the_state_that_the_work_list_shows(filled: Ledger) -> None:
    add_series(filled, "1.4", "1.5", "1.6")
    add_series(filled, "1.7", ready=False)
    annotations = filled.annotations
    for uid in ("1.1", "1.2"):
        annotations.add_draft(draft(uid, 3))
    accepted = annotations.add_human(human("1.2", voxels={"liver": 5}), accept=True)
    submitted = annotations.add_human(human("1.4", voxels={"liver": 7}), accept=False)
    kept = annotations.add_human(human("1.5", voxels={"liver": 9}), accept=True)
    annotations.add_human(human("1.5", voxels={"liver": 0}, held_reason="empty"), accept=True)
    annotations.add_human(human("1.6", held_reason="empty"), accept=True)
    found = {case.series_uid: case for case in filled.curation.cases(TASK)}
    assert {uid: case.state for uid, case in found.items()} == {
        "1.1": "drafted", "1.2": "labelled", "1.3": "todo", "1.4": "submitted", "1.5": "held", "1.6": "held",
    }  # fmt: skip
    assert [found[uid].label_id for uid in ("1.1", "1.2", "1.4", "1.5")] == [None, accepted, submitted, kept]
    assert [found[f"1.{n}"].label_status for n in range(1, 7)] == ["", "accepted", "", "submitted", "accepted", "held"]
    assert [dict(found[uid].drawn) for uid in ("1.2", "1.4", "1.5")] == [{"liver": 5}, {"liver": 7}, {"liver": 9}]
    assert (found["1.2"].model_version, found["1.3"].model_version) == (3, None)
    for state in CURATED_STATES:
        asked = filled.curation.cases(TASK, Wanted(state=state))
        assert asked == [case for case in found.values() if case.state == state]
    assert {case.state for case in filled.curation.cases("another task")} == {"todo"}


def test_what_a_model_said_last_is_told_with_nan_for_what_it_did_not_say(filled: Ledger) -> None:
    add = filled.annotations.add_draft
    newest = add(draft("1.1", 1), scores={"liver": 0.5}, values={"volume_ml": {"liver": 30.0, "cyst": 0.0}})
    filled.scorings.add("1.1", TASK, 3, Said(error="it has too few slices"))
    curation = filled.curation
    (case, other, _) = curation.with_values(curation.cases(TASK))
    assert (case.draft_id, case.model_version) == (newest, 1)
    assert (case.said["liver"]["entropy"], case.said["liver"]["volume_ml"]) == (0.5, 30.0)
    assert case.said["cyst"]["volume_ml"] == 0.0
    assert math.isnan(case.said["cyst"]["entropy"])
    assert math.isnan(case.said["liver"]["bald"])
    assert (other.said, other.model_version) == ({}, None)
    assert curation.cases(TASK)[0] == replace(case, said={})
    filled.scorings.add("1.1", TASK, 2, Said({"liver": 0.25}))
    (case,) = curation.with_values(curation.cases(TASK)[:1])
    assert (case.draft_id, case.model_version, case.said["liver"]["entropy"]) == (newest, 2, 0.25)


def test_every_version_s_embedding_is_known_and_that_of_other_slices_is_not(filled: Ledger) -> None:
    filled.annotations.add_draft(draft("1.1", 1), embedding=np.array([1.0, 2.0]))
    filled.annotations.add_draft(draft("1.1", 1), embedding=np.array([3.0, 4.0]))
    newest = filled.annotations.add_draft(draft("1.1", 2), scores={"liver": 0.5}, embedding=np.array([5.0, 6.0, 7.0]))
    filled.annotations.add_draft(draft("1.2", 2))  # without one
    filled.scorings.add("1.3", TASK, 2, Said(embedding=np.array([8.0])))
    filled.annotations.add_human(human("1.1"), accept=True)  # supersedes its draft
    found = filled.curation.embedded(TASK)
    assert [(row.series_uid, row.model_version) for row in found] == [("1.1", 1), ("1.1", 2), ("1.3", 2)]
    vectors = filled.curation.vectors([row.scoring_id for row in found[:2]])
    assert [np.frombuffer(vectors[row.scoring_id], "<f4").tolist() for row in found[:2]] == [[3, 4], [5, 6, 7]]
    assert filled.curation.vectors([999]) == {}
    assert filled.curation.cases(TASK)[0].draft_id == newest
    known = filled.series.get("1.1")
    filled.series.add(NewSeries("1.1", known.study_uid, known.patient, "pool", "CT", instances=4))
    filled.series.set_ready("1.1", (), "frame", None)
    assert [row.series_uid for row in filled.curation.embedded(TASK)] == ["1.3"]
    assert filled.curation.cases(TASK)[0].draft_id is None


def test_a_patient_s_split_and_the_facts_of_a_series_come_along(ledger: Ledger) -> None:
    new = NewSeries("1.1", "1", "p1", "promotion", "CT", "abdomen", 3, "North", "Acme", "20260102")
    ledger.series.add(new)
    geometry = {"shape": [3, 4, 5]}
    ledger.series.set_ready("1.1", (), "frame", geometry)
    (bare,) = ledger.curation.cases(TASK)
    (case,) = ledger.curation.with_grids([bare])
    assert bare == replace(case, geometry=None)
    assert (case.study_uid, case.patient, case.split, case.modality) == ("1", "p1", "promotion", "CT")
    assert (case.site, case.scanner, case.protocol, case.date) == ("North", "Acme", "abdomen", "20260102")
    assert (case.geometry, case.tags, case.said) == (geometry, (), {})


@pytest.fixture
def sites(ledger: Ledger) -> Ledger:
    """Series of three patients, two sites, two modalities and four days."""
    rows = (
        ("1.1", "Pa", "pool", "CT", "North", "20260110"),
        ("1.2", "pa", "pool", "CT", "South", "20260220"),
        ("1.3", "pb", "promotion", "MR", "North", ""),
        ("1.4", "pb", "promotion", "CT", "", "2026-03-01"),
    )
    for uid, patient, split, modality, site, day in rows:
        ledger.series.add(NewSeries(uid, "s", patient, split, modality, "", 3, site, "", day))
        ledger.series.set_ready(uid, (), "frame", None)
    ledger.curation.tag(["1.1", "1.3"], ["metal"], "anna")
    ledger.curation.create("odd", "", "anna")
    ledger.curation.add("odd", ["1.2", "1.3"], "anna")
    return ledger


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), ["1.1", "1.2", "1.3", "1.4"]),
        (Wanted(series_uid="1.2"), ["1.2"]),
        (Wanted(modalities=("MR",)), ["1.3"]),
        (Wanted(modalities=()), []),
        (Wanted(split="promotion"), ["1.3", "1.4"]),
        (Wanted(tag="metal"), ["1.1", "1.3"]),
        (Wanted(cohort="odd"), ["1.2", "1.3"]),
        (Wanted(cohort="odd", tag="metal"), ["1.3"]),
        (Wanted(sites=("North", "East")), ["1.1", "1.3"]),
        (Wanted(sites=()), []),
        (Wanted(since="20260220"), ["1.2", "1.4"]),
        (Wanted(since="20260110", until="20260228"), ["1.1", "1.2"]),
        (Wanted(patient="p"), ["1.2", "1.3", "1.4"]),
        (Wanted(state="of another kind"), []),
    ],
)
def test_the_database_gives_the_series_alone_that_are_wanted(sites: Ledger, wanted: Wanted, found: list[str]) -> None:
    assert [case.series_uid for case in sites.curation.cases(TASK, wanted)] == found


def test_many_series_are_told_with_the_same_tags_and_labels_as_few(sites: Ledger, monkeypatch) -> None:
    sites.annotations.add_human(human("1.2", voxels={"liver": 5}), accept=True)
    few = sites.curation.cases(TASK)
    monkeypatch.setattr("lib.ledger.curationreads.CHUNK", 3)
    assert sites.curation.cases(TASK) == few
    assert [(case.tags, case.state) for case in few[:2]] == [(("metal",), "todo"), ((), "labelled")]
    assert sites.curation.sites() == ["", "North", "South"]
