"""The pool that strategies rank, made of the ledger's rows.

What the ledger does not know stays empty: a draft from before all quantities were kept has the entropy alone, a case
that no model has seen has no values and no model. All embeddings are of one version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores
from lib.selection.cases import Facts, Labelled
from lib.selection.pool import NO_MODEL, QUANTITIES, Pool
from lib.taskfile import Task

NOTHING = LabelScores()


@dataclass(frozen=True, slots=True)
class Moment:
    """What the age of scores is told by.

    Attributes:
        champion: the version that serves; None = the newest that has scored a case stands for it.
        compared: the version that the embeddings are of; None = there are none.
        now: the time.
    """

    champion: int | None = None
    compared: int | None = None
    now: datetime | None = None


def pool_of(
    task: Task,
    cases: Sequence[Candidate],
    labelled: Sequence[LabelledCase] = (),
    moment: Moment = Moment(),
    with_values: bool = True,
) -> Pool:
    """The cases as a pool.

    Args:
        task: whose labels count; what a model said of others is left out.
        cases: that may be ranked, all of the pool split.
        labelled: that they are held against, of that split too.
        moment: what their values are held against.
        with_values: whether the strategy looks at what a model said.
    """
    ids, labels = [case.series_uid for case in cases], task.schema.names
    width = _width(cases) if with_values else 0
    rare = [label.name for label in map(task.schema.find, task.rare) if label is not None]
    facts, known = _facts(cases), _labelled(task, labelled, width, moment.compared)
    if not with_values:
        return Pool.of(ids, labels, rare=rare, facts=facts, labelled=known)
    table = _table(cases, labels)
    return Pool.of(
        ids,
        labels,
        rare=rare,
        quantities={name: table[:, :, LabelScores._fields.index(name)] for name in QUANTITIES},
        volumes_ml=table[:, :, LabelScores._fields.index("volume_ml")],
        presence=np.clip(table[:, :, LabelScores._fields.index("largest_probability")], 0.0, 1.0),
        embeddings=_embeddings([case.vector for case in cases], width),
        embedded_by=_versions([moment.compared] * len(cases)),
        versions=_versions([case.model_version for case in cases]),
        ages_days=[_days(case.scored_at, moment.now) for case in cases],
        champion=moment.champion,
        facts=facts,
        labelled=known,
    )


def _table(cases: Sequence[Candidate], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """(n_cases, n_labels, n_fields of LabelScores)."""
    rows = [[case.scores.get(label, NOTHING) for label in labels] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels), len(LabelScores._fields))


def _labelled(task: Task, labelled: Sequence[LabelledCase], width: int, compared: int | None) -> Labelled:
    presence = [[label in case.labels for label in task.schema.names] for case in labelled]
    return Labelled.of(
        [case.series_uid for case in labelled],
        np.array(presence, dtype=np.bool_).reshape(len(labelled), len(task.schema.names)),
        _embeddings([case.vector for case in labelled], width),
        _versions([compared] * len(labelled)),
        _facts(labelled),
    )


def _width(cases: Sequence[Candidate]) -> int:
    """Numbers in an embedding; 0 when no case has one."""
    return next((len(case.vector) // 4 for case in cases if case.vector), 0)


def _embeddings(vectors: Sequence[bytes], width: int) -> npt.NDArray[np.float32]:
    """(n, width); NaN for a case without one of that width."""
    rows = np.full((len(vectors), width), np.nan, dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        if vector and len(vector) == 4 * width:
            row[:] = np.frombuffer(vector, dtype="<f4")
    rows.flags.writeable = False  # so that a pool need not copy them
    return rows


def _versions(versions: Sequence[int | None]) -> npt.NDArray[np.int64]:
    return np.array([NO_MODEL if version is None else version for version in versions], dtype=np.int64)


def _days(since: datetime | None, now: datetime | None) -> float:
    """Days between both; NaN when one is not known."""
    return float("nan") if since is None or now is None else (now - since).total_seconds() / 86400


def _facts(cases: Sequence[Candidate] | Sequence[LabelledCase]) -> Facts:
    return Facts(
        tuple(case.patient for case in cases),
        tuple(case.site for case in cases),
        tuple(case.scanner for case in cases),
        tuple(case.protocol for case in cases),
    )
