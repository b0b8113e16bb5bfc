"""More series like a given one, by the distance of their embeddings."""

from dataclasses import dataclass
from typing import Any

from lib.core.errors import InvalidInput, NotFound
from lib.ledger.curationrows import CURATED_STATES, CuratedCase, Wanted
from lib.selection.neighbours import k_nearest
from lib.taskfile import Task
from lib.workflows.curate.cases import case_dict, task_cases, told
from lib.workflows.curate.conditions import require_word
from lib.workflows.curate.space import load, version_for
from lib.workflows.services import Services


@dataclass(frozen=True, slots=True)
class Alike:
    """Series like one.

    Attributes:
        case: the one.
        version: whose embeddings were compared.
        compared: how many others.
        near: others and their distances, the nearest first.
        notes: what was left out and why, in words.
    """

    case: CuratedCase
    version: int
    compared: int
    near: tuple[tuple[CuratedCase, float], ...]
    notes: tuple[str, ...]

    def to_dict(self, task: Task) -> dict[str, Any]:
        """As plain values."""
        near = [{**case_dict(case, task), "distance": told(distance)} for case, distance in self.near]
        known = {"task": task.name, "like": self.case.series_uid, "version": self.version, "compared": self.compared}
        return {**known, "notes": list(self.notes), "series": near}


def like(
    services: Services, task: Task, series_uid: str, limit: int = 20, state: str = "", version: int | None = None
) -> Alike:
    """The series that are most like one.

    Args:
        services: the rooms.
        task: whose models saw them.
        series_uid: the one.
        limit: how many at most.
        state: one of `CURATED_STATES`, to look among these alone.
        version: whose embeddings; None = that under which most others can be compared.

    Raises:
        InvalidInput: no such state, a limit below 1.
        NotFound: no such series, or one that is not ready, not for the task, or not seen by that version or any.
    """
    if limit < 1:
        raise InvalidInput(f"limit must be at least 1, got {limit}")
    if state:
        require_word("state", state, CURATED_STATES)
    if not (this := task_cases(services, task, Wanted(series_uid=series_uid))):
        raise NotFound(_why_not(services, task, series_uid))
    others = {one.series_uid: one for one in task_cases(services, task, Wanted(state=state))}
    others.pop(series_uid, None)
    embedded = services.ledger.curation.embedded(task.name)
    chosen = version_for(embedded, {series_uid}, others, version)
    if chosen is None:
        raise NotFound(_nothing(series_uid, any(row.series_uid == series_uid for row in embedded)))
    space = load(services, embedded, chosen)
    (mine, point), (ids, points) = space.of({series_uid}), space.of(others)
    if not mine:
        raise NotFound(f"version {chosen} made no usable embedding of series {series_uid}: take another version")
    distances, which = k_nearest(point, points, limit)
    curation = services.ledger.curation
    found = curation.with_grids(curation.with_values([others[ids[number]] for number in which.reshape(-1)]))
    near = tuple(zip(found, distances.reshape(-1).tolist(), strict=True))
    left = f"{len(others) - len(ids)} others have no embedding by it and are left out"
    return Alike(this[0], chosen, len(ids), near, (f"compared by embeddings of model version {chosen} alone; {left}",))


def _why_not(services: Services, task: Task, series_uid: str) -> str:
    row = services.ledger.series.get(series_uid)
    reason = task.why_not(row.modality, row.description)
    return reason or f"series {series_uid} must be ready, it is {row.status} {row.reason}".rstrip()


def _nothing(series_uid: str, is_embedded: bool) -> str:
    if is_embedded:
        return f"no other series was seen by a model version that saw {series_uid}: draft some with that version"
    return f"series {series_uid} has no embedding: have a model draft it first (transunet-label presegment)"
