"""Series unlike everything that is labelled, with the labelled ones that are nearest and the reason in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.core.errors import InvalidInput
from lib.ledger.curationrows import CuratedCase, Wanted
from lib.selection.draws import keys
from lib.selection.embeddings import Comparable
from lib.selection.neighbours import Unlikeness, unlikeness
from lib.selection.ranking import descending
from lib.taskfile import Task
from lib.workflows.collect import Split
from lib.workflows.curate.cases import case_dict, task_cases, told
from lib.workflows.curate.space import Embeddings, load, version_for
from lib.workflows.curate.usual import Usual
from lib.workflows.services import Services

COUNTED = ("accepted", "submitted")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A labelled case near another one.

    Attributes:
        series_uid: of the labelled case.
        distance: of the embeddings; comparable within one answer alone.
        labels: that a person drew on it.
    """

    series_uid: str
    distance: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outlier:
    """A series and how unlike the labelled ones it is.

    Attributes:
        case: the series.
        score: 0 to 1, larger = more unlike; the queue's order.
        distance: mean, to its nearest labelled cases.
        share: of the labelled cases that are nearer to the other labelled ones; NaN where nobody knows.
        is_outlying: whether that share says so.
        neighbours: the nearest labelled cases, the nearest first.
        reasons: what is strange about it, in words.
    """

    case: CuratedCase
    score: float
    distance: float
    share: float
    is_outlying: bool
    neighbours: tuple[Neighbour, ...]
    reasons: tuple[str, ...]

    def to_dict(self, task: Task) -> dict[str, Any]:
        """As plain values."""
        near = [
            {"series": one.series_uid, "distance": told(one.distance), "labels": list(one.labels)}
            for one in self.neighbours
        ]
        numbers = {"score": told(self.score), "distance": told(self.distance), "share": told(self.share)}
        verdict = {"is_outlying": self.is_outlying, "neighbours": near, "reasons": list(self.reasons)}
        return {**case_dict(self.case, task), **numbers, **verdict}


@dataclass(frozen=True, slots=True)
class Outliers:
    """The queue of strange series.

    Attributes:
        version: whose embeddings were compared; None when there was nothing to compare.
        compared: series without a label that were.
        labelled: labelled series that they were held against.
        outlying: how many of them are.
        queue: the strangest first.
        notes: what was left out and why, in words.
    """

    version: int | None
    compared: int
    labelled: int
    outlying: int
    queue: tuple[Outlier, ...]
    notes: tuple[str, ...]

    def to_dict(self, task: Task) -> dict[str, Any]:
        """As plain values."""
        counts = {"compared": self.compared, "labelled": self.labelled, "outlying": self.outlying}
        queue = [one.to_dict(task) for one in self.queue]
        return {"task": task.name, "version": self.version, **counts, "notes": list(self.notes), "series": queue}


def outliers(
    services: Services, task: Task, limit: int = 50, every: bool = False, version: int | None = None
) -> Outliers:
    """Series of pool patients without a label that are unlike the labelled ones of the pool, the strangest first.

    Calibration and promotion patients are drawn at random and never looked for.

    Args:
        services: the rooms.
        task: whose cases.
        limit: how many at most.
        every: rank all, also those that are not outlying.
        version: whose embeddings; None = that under which most can be compared.

    Raises:
        InvalidInput: a limit below 1.
        NotFound: a version without embeddings.
    """
    if limit < 1:
        raise InvalidInput(f"limit must be at least 1, got {limit}")
    cases = task_cases(services, task, Wanted(split=Split.POOL.value))
    labelled = {case.series_uid: case for case in cases if case.label_status in COUNTED}
    free = {case.series_uid: case for case in cases if case.label_id is None}
    embedded = services.ledger.curation.embedded(task.name)
    chosen = version_for(embedded, free, labelled, version)
    space = None if chosen is None else load(services, embedded, chosen)
    if space is None or not (space.of(free)[0] and space.of(labelled)[0]):
        return Outliers(None, 0, 0, 0, (), (_nothing(free, labelled),))
    return _ranked(services, task, free, labelled, space, limit, every)


def _ranked(
    services: Services,
    task: Task,
    free: Mapping[str, CuratedCase],
    labelled: Mapping[str, CuratedCase],
    space: Embeddings,
    limit: int,
    every: bool,
) -> Outliers:
    (ids, points), (anchor_ids, anchors) = space.of(free), space.of(labelled)
    comparable = Comparable(np.arange(len(ids), dtype=np.int64), points, anchors, anchor_ids, space.version)
    seed = services.settings.query.seed
    found = unlikeness(comparable, seed, services.settings.selection)
    knows, shares, outlying = len(found.usual) > 0, found.shares, found.outlying
    order = [i for i in descending(found.scores, keys(ids, seed)).tolist() if every or not knows or outlying[i]]
    curation = services.ledger.curation
    usual = Usual.of(curation.with_grids(list(labelled.values())), task)
    shown = curation.with_grids(curation.with_values([free[ids[i]] for i in order[:limit]]))
    queue = tuple(
        Outlier(
            case=case,
            score=float(found.scores[i]),
            distance=float(found.distances[i]),
            share=float(shares[i]),
            is_outlying=bool(outlying[i]),
            neighbours=_neighbours(found, i, anchor_ids, labelled),
            reasons=(*_far(found, i), *usual.strange(case)),
        )
        for i, case in zip(order, shown, strict=False)
    )
    notes = _notes(space.version, len(free) - len(ids), len(labelled) - len(anchor_ids), knows)
    return Outliers(space.version, len(ids), len(anchor_ids), int(outlying.sum()), queue, notes)


def _far(found: Unlikeness, i: int) -> tuple[str, ...]:
    """How far it is, against what is usual."""
    near = f"its {found.which.shape[1]} nearest labelled cases are {found.distances[i]:.3g} away"
    if not len(found.usual):
        return (f"{near}; with one labelled case nobody knows what is usual",)
    nearer = round(found.shares[i] * len(found.usual))
    return (f"{near}, further than {nearer} of {len(found.usual)} labelled cases are from the other labelled ones",)


def _neighbours(
    found: Unlikeness, i: int, anchor_ids: Sequence[str], labelled: Mapping[str, CuratedCase]
) -> tuple[Neighbour, ...]:
    pairs = zip(found.which[i].tolist(), found.apart[i].tolist(), strict=True)
    return tuple(_neighbour(labelled[anchor_ids[which]], distance) for which, distance in pairs)


def _neighbour(case: CuratedCase, distance: float) -> Neighbour:
    return Neighbour(case.series_uid, distance, tuple(name for name, voxels in case.drawn.items() if voxels))


def _notes(version: int, cases: int, anchors: int, knows: bool) -> tuple[str, ...]:
    left = f"{cases} series and {anchors} labelled ones have no embedding by it and are left out"
    notes = (f"compared by embeddings of model version {version} alone; {left}",)
    return notes if knows else (*notes, "with one labelled case nothing can be called outlying: all are ranked")


def _nothing(free: Mapping[str, CuratedCase], labelled: Mapping[str, CuratedCase]) -> str:
    have = f"{len(free)} series without a label and {len(labelled)} labelled ones"
    return f"nothing can be compared: of {have} in the pool no model version has embeddings of both; draft them first"
