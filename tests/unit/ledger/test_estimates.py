"""Estimates of drafts are kept with them, and can be told later from the evidence that was kept."""

import math

import numpy as np
import pytest
from ledger_support import TASK, add_series, draft

from lib.core.estimated import EstimatedDice
from lib.ledger.ledger import Ledger

SURE = EstimatedDice(0.9, 0.8, 0.95, True)
NONE = EstimatedDice(math.nan, math.nan, math.nan, True, "not predicted")
ODD = EstimatedDice(0.4, 0.0, 1.0, False, "unfamiliar")
SHOWN = {
    "volume_ml": {"liver": 12.0, "lesion": 0.0},
    "largest_probability": {"liver": 0.9, "lesion": 0.2},
    "components": {"liver": 2.0, "lesion": 0.0},
}


@pytest.fixture
def drafted(ledger: Ledger) -> list[int]:
    """Two drafts of version 4 with evidence, one of version 5 with evidence, one of version 4 without."""
    add_series(ledger, "2.1", "2.2", "2.3", "2.4")
    vector = np.array([1.0, 2.0], dtype=np.float32)
    made = [
        ledger.annotations.add_draft(draft(uid, version), embedding=vector, values=SHOWN)
        for uid, version in (("2.1", 4), ("2.2", 4), ("2.3", 5))
    ]
    return [*made, ledger.annotations.add_draft(draft("2.4", 4))]


def test_estimates_come_with_the_draft_and_are_read_as_they_were_told(ledger: Ledger) -> None:
    add_series(ledger, "3.1", "3.2")
    told = {"liver": SURE, "lesion": NONE, "aorta": ODD}
    made = ledger.annotations.add_draft(draft("3.1"), estimates=told)
    other = ledger.annotations.add_draft(draft("3.2"))
    found = ledger.estimates.of([made, other])
    assert set(found) == {made}
    assert (found[made]["liver"], found[made]["aorta"]) == (SURE, ODD)
    lesion = found[made]["lesion"]
    assert (math.isnan(lesion.value), math.isnan(lesion.low), lesion.is_familiar, lesion.reason) == (
        True,
        True,
        True,
        "not predicted",
    )


def test_later_estimates_replace_earlier_ones(ledger: Ledger, drafted: list[int]) -> None:
    first, second, *_ = drafted
    ledger.estimates.put({first: {"liver": ODD, "lesion": SURE}, second: {"liver": SURE}})
    ledger.estimates.put({first: {"liver": SURE}})
    assert ledger.estimates.of(drafted) == {first: {"liver": SURE}, second: {"liver": SURE}}


def test_the_evidence_of_the_drafts_in_force_of_a_version_comes_back(ledger: Ledger, drafted: list[int]) -> None:
    (part,) = ledger.estimates.evidence(TASK, 4)
    assert [one.draft for one in part] == drafted[:2]
    for one in part:
        np.testing.assert_array_equal(one.embedding, np.array([1.0, 2.0], dtype=np.float32))
        assert (one.evidence["liver"].volume_ml, one.evidence["liver"].components) == (12.0, 2)
        assert math.isnan(one.evidence["liver"].samples_dice)
        assert one.evidence["lesion"].volume_ml == 0.0
    assert list(ledger.estimates.evidence("another", 4)) == []


def test_the_evidence_of_many_drafts_comes_in_parts(ledger: Ledger, drafted: list[int], monkeypatch) -> None:
    monkeypatch.setattr("lib.ledger.estimates.CHUNK", 1)
    assert [[one.draft for one in part] for part in ledger.estimates.evidence(TASK, 4)] == [[n] for n in drafted[:2]]
