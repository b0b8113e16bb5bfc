"""What curation takes from the ledger: cases with all that is known of them, embeddings, cohorts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

CuratedState = Literal["labelled", "submitted", "held", "drafted", "todo"]
LabelStatus = Literal["", "held", "submitted", "accepted"]
CURATED_STATES: tuple[CuratedState, ...] = ("labelled", "submitted", "held", "drafted", "todo")
"""labelled: an accepted human label; submitted: one that waits for review; held: one that is held back for it; drafted:
a model's draft; todo: neither."""


@dataclass(frozen=True, slots=True)
class CuratedCase:
    """A ready series as a data team looks at it, for one task.

    Attributes:
        patient: pseudonym.
        site: institution; "" = unknown, as below.
        scanner: its manufacturer.
        protocol: description of the series.
        date: DICOM date of the series.
        geometry: the grid as the check found it, None where it was not kept and until it is asked for.
        state: see CURATED_STATES.
        label_id: the human annotation that counts: an accepted one before one that waits for review, that before one
            that is held back; None without one.
        label_status: "accepted", "submitted" or "held" of that annotation; "" without one.
        drawn: its voxels by label name; empty without one.
        draft_id: the newest draft of ours of these images, in force or not; None without one.
        model_version: that looked at it last, with a draft or without; None when none has.
        scoring_id: under which what it said is kept.
        said: that, by label and by name of the scores' column; NaN = no value. Empty until it is asked for.
        tags: in their order.
    """

    series_uid: str
    study_uid: str
    patient: str
    split: str
    modality: str
    site: str
    scanner: str
    protocol: str
    date: str
    geometry: Mapping[str, Any] | None
    state: CuratedState
    label_id: int | None
    label_status: LabelStatus
    drawn: Mapping[str, int]
    draft_id: int | None
    model_version: int | None
    scoring_id: int | None = None
    said: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ready series the ledger gives; everything must hold. "" and None = whatever it is.

    Attributes:
        series_uid: this one alone.
        modalities: one of these.
        state: one of CURATED_STATES.
        split: of the patient.
        tag: that the series has.
        cohort: that the series is in.
        sites: one of these institutions; few enough for a statement.
        since: first date, YYYYMMDD.
        until: last date, YYYYMMDD.
        patient: beginning of the pseudonym.
    """

    series_uid: str = ""
    modalities: Sequence[str] | None = None
    state: str = ""
    split: str = ""
    tag: str = ""
    cohort: str = ""
    sites: Sequence[str] | None = None
    since: str = ""
    until: str = ""
    patient: str = ""


ALL = Wanted()


class Embedded(NamedTuple):
    """That a model version saw a series, and under which scoring its embedding is kept."""

    series_uid: str
    model_version: int
    scoring_id: int


@dataclass(frozen=True, slots=True)
class CohortRow:
    """A named set of series.

    Attributes:
        size: how many series it has.
    """

    name: str
    description: str
    author: str
    created_at: datetime
    size: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A series of a cohort, and who put it there."""

    series_uid: str
    author: str
    added_at: datetime
