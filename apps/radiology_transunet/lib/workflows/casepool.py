"""The pool that strategies rank, made of the ledger's rows.

What the ledger does not know stays empty: a draft from before all quantities were kept has the entropy alone, a case
without a draft has no values and no model. Embeddings of another width than the newest are of another network, so that
they compare with nothing: they are left out.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores
from lib.selection.cases import Facts, Labelled
from lib.selection.pool import NO_MODEL, QUANTITIES, Pool
from lib.taskfile import Task

NOTHING = LabelScores()


def pool_of(
    task: Task, cases: Sequence[Candidate], labelled: Sequence[LabelledCase] = (), with_values: bool = True
) -> Pool:
    """The cases as a pool.

    Args:
        task: whose labels count; what a model said of others is left out.
        cases: that may be ranked, all of the pool split.
        labelled: that they are held against, of that split too.
        with_values: whether the strategy looks at what a model said.
    """
    ids, labels = [case.series_uid for case in cases], task.schema.names
    width = _width(cases) if with_values else 0
    rare = [label.name for label in map(task.schema.find, task.rare) if label is not None]
    facts, known = _facts(cases), _labelled(task, labelled, width)
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
        versions=_versions(cases),
        facts=facts,
        labelled=known,
    )


def _table(cases: Sequence[Candidate], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """(n_cases, n_labels, n_fields of LabelScores)."""
    rows = [[case.scores.get(label, NOTHING) for label in labels] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels), len(LabelScores._fields))


def _labelled(task: Task, labelled: Sequence[LabelledCase], width: int) -> Labelled:
    presence = [[label in case.labels for label in task.schema.names] for case in labelled]
    return Labelled.of(
        [case.series_uid for case in labelled],
        np.array(presence, dtype=np.bool_).reshape(len(labelled), len(task.schema.names)),
        _embeddings([case.vector for case in labelled], width),
        _versions(labelled),
        _facts(labelled),
    )


def _width(cases: Sequence[Candidate]) -> int:
    """Numbers in an embedding of the newest model that a case has one of; 0 when none has."""
    embedded = [case for case in cases if case.vector and case.model_version is not None]
    newest = max(embedded, key=lambda case: (case.model_version, len(case.vector)), default=None)
    return 0 if newest is None else len(newest.vector) // 4


def _embeddings(vectors: Sequence[bytes], width: int) -> npt.NDArray[np.float64]:
    """(n, width); NaN for a case without one of that width."""
    rows = np.full((len(vectors), width), np.nan)
    for row, vector in zip(rows, vectors, strict=True):
        if vector and len(vector) == 4 * width:
            row[:] = np.frombuffer(vector, dtype="<f4")
    return rows


def _versions(cases: Sequence[Candidate] | Sequence[LabelledCase]) -> npt.NDArray[np.int64]:
    versions = [NO_MODEL if case.model_version is None else case.model_version for case in cases]
    return np.array(versions, dtype=np.int64)


def _facts(cases: Sequence[Candidate] | Sequence[LabelledCase]) -> Facts:
    return Facts(
        tuple(case.patient for case in cases),
        tuple(case.site for case in cases),
        tuple(case.scanner for case in cases),
        tuple(case.protocol for case in cases),
    )
