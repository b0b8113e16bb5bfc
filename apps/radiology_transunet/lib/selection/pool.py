"""What the strategies see: the cases that may be labelled, and those that are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput
from lib.selection.arrays import BoolArray, FloatArray, IntArray, Vectors
from lib.selection.cases import Facts, Labelled, assign, embedded, fixed, unique

QUANTITIES = ("entropy", "bald", "margin", "disagreement")
"""Uncertainties by case and label; of each one a larger value means less sure."""
NO_MODEL = -1
"""The version of a case that no model has seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The cases that may be handed out, and the labelled ones that they are held against.

    Attributes:
        ids: (n,) each once.
        labels: names of the foreground labels.
        rare: those of them that the task calls rare.
        quantities: uncertainty (n, n_labels) by name of `QUANTITIES`; NaN = no value, as is everything not finite.
        volumes_ml: (n, n_labels) predicted volume in millilitres; 0 = not predicted, as is NaN.
        presence: (n, n_labels) largest probability of the label in the case, 0 to 1; NaN = unknown.
        embeddings: (n, d) of the case; a row with anything not finite = none.
        embedded_by: (n,) of the model that the embedding is of.
        versions: (n,) of the model that the other values of the case are of; below 0 = no model has seen it.
        ages_days: (n,) days since those values were made; NaN = unknown.
        champion: the version that serves; what another one said is old.
        facts: where the cases come from.
        labelled: the cases that have a label.

    Raises:
        InvalidInput: arrays of other sizes or out of range, an id twice, a rare label that is none.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    rare: tuple[str, ...]
    quantities: Mapping[str, FloatArray]
    volumes_ml: FloatArray
    presence: FloatArray
    embeddings: Vectors
    embedded_by: IntArray
    versions: IntArray
    ages_days: FloatArray
    champion: int
    facts: Facts
    labelled: Labelled

    def __post_init__(self) -> None:
        shape = (unique(self.ids, "pool"), len(self.labels))
        self._check_labels()
        tables = {name: _table(name, self.quantities[name], shape) for name in QUANTITIES}
        quantities = {name: fixed(_without(table, np.isinf, np.nan)) for name, table in tables.items()}
        volumes = _without(_table("volumes_ml", self.volumes_ml, shape), np.isnan, 0.0)
        presence = _table("presence", self.presence, shape)
        if (volumes < 0).any() or (presence < 0).any() or (presence > 1).any() or np.isinf(volumes).any():
            raise InvalidInput("volumes_ml must be finite and 0 or more, presence from 0 to 1")
        embeddings, embedded_by = embedded(self.embeddings, self.embedded_by, shape[0], "pool")
        versions, ages = np.array(self.versions, dtype=np.int64), np.array(self.ages_days, dtype=np.float64)
        if versions.shape != (shape[0],) or ages.shape != (shape[0],):
            raise InvalidInput(f"versions and ages_days must be ({shape[0]},), got {versions.shape} and {ages.shape}")
        self.facts.check(shape[0], "pool")
        self._check_labelled(embeddings.shape[1])
        assign(self, quantities=MappingProxyType(quantities), volumes_ml=fixed(volumes), presence=fixed(presence))
        assign(self, embeddings=embeddings, embedded_by=embedded_by, versions=fixed(versions), ages_days=fixed(ages))

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        labels: Sequence[str],
        *,
        rare: Sequence[str] = (),
        quantities: Mapping[str, npt.ArrayLike] | None = None,
        volumes_ml: npt.ArrayLike | None = None,
        presence: npt.ArrayLike | None = None,
        embeddings: npt.ArrayLike | None = None,
        embedded_by: npt.ArrayLike | None = None,
        versions: npt.ArrayLike | None = None,
        ages_days: npt.ArrayLike | None = None,
        champion: int | None = None,
        facts: Facts | None = None,
        labelled: Labelled | None = None,
    ) -> "Pool":
        """A pool of which some things are not known: no values, nothing predicted, no embeddings, all of one model.

        Embeddings are of the model that the other values are of, and the newest of those serves, unless it is said.
        """
        shape = (len(ids), len(labels))
        unknown = np.broadcast_to(np.nan, shape)  # takes no memory
        given = quantities or {}
        if strange := sorted(set(given) - set(QUANTITIES)):
            raise InvalidInput(f"quantities must be of {', '.join(QUANTITIES)}, got {', '.join(strange)}")
        rows = np.empty((shape[0], 0), np.float32) if embeddings is None else np.asarray(embeddings, dtype=np.float32)
        by = np.zeros(shape[0], dtype=np.int64) if versions is None else np.asarray(versions, dtype=np.int64)
        return cls(
            ids=tuple(ids),
            labels=tuple(labels),
            rare=tuple(rare),
            quantities={name: np.asarray(given.get(name, unknown), dtype=np.float64) for name in QUANTITIES},
            volumes_ml=np.asarray(np.broadcast_to(0.0, shape) if volumes_ml is None else volumes_ml, dtype=np.float64),
            presence=np.asarray(unknown if presence is None else presence, dtype=np.float64),
            embeddings=rows,
            embedded_by=by if embedded_by is None else np.asarray(embedded_by, dtype=np.int64),
            versions=by,
            ages_days=np.asarray(np.full(shape[0], np.nan) if ages_days is None else ages_days, dtype=np.float64),
            champion=int(by.max(initial=NO_MODEL)) if champion is None else champion,
            facts=facts or Facts.unknown(shape[0]),
            labelled=labelled or Labelled.of((), np.empty((0, shape[1])), np.empty((0, *rows.shape[1:]))),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, order: Sequence[int]) -> "Pool":
        """The cases `order` in that order, with the same labelled ones."""
        return Pool(
            ids=tuple(self.ids[i] for i in order),
            labels=self.labels,
            rare=self.rare,
            quantities={name: _rows(table, order) for name, table in self.quantities.items()},
            volumes_ml=_rows(self.volumes_ml, order),
            presence=_rows(self.presence, order),
            embeddings=fixed(self.embeddings[order]),
            embedded_by=self.embedded_by[order],
            versions=self.versions[order],
            ages_days=self.ages_days[order],
            champion=self.champion,
            facts=self.facts.take(order),
            labelled=self.labelled.sorted(),
        )

    def _check_labels(self) -> None:
        if len(set(self.labels)) != len(self.labels) or set(self.rare) - set(self.labels):
            raise InvalidInput(
                f"labels must be named once and rare ones be among them, got {self.labels} and rare {self.rare}"
            )
        if set(self.quantities) != set(QUANTITIES):
            raise InvalidInput(f"quantities must be {', '.join(QUANTITIES)}, got {', '.join(sorted(self.quantities))}")

    def _check_labelled(self, width: int) -> None:
        if both := sorted(set(self.ids).intersection(self.labelled.ids)):
            raise InvalidInput(f"a case is in the pool or labelled, not both: {', '.join(both[:4])}")
        found = self.labelled.presence.shape[1], self.labelled.embeddings.shape[1]
        if found[0] != len(self.labels) or (len(self.labelled) and found[1] and width and found[1] != width):
            raise InvalidInput(
                f"labelled cases must have {len(self.labels)} labels and embeddings of {width}, got {found[0]} and "
                f"{found[1]}; embeddings of another width are of another model: hand them over as NaN"
            )


def _table(name: str, values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """The values as (n_cases, n_labels); a copy, unless all of them are one value that is repeated."""
    table = np.asarray(values, dtype=np.float64)
    if table.shape != shape:
        raise InvalidInput(f"{name} must be ({shape[0]} cases, {shape[1]} labels), got shape {table.shape}")
    return table if _repeats(table) else table.copy()


def _without(table: FloatArray, strange: Callable[[FloatArray], BoolArray], instead: float) -> FloatArray:
    found = strange(table)
    return np.where(found, instead, table) if found.any() else table


def _repeats(table: FloatArray) -> bool:
    return table.size > 0 and not any(table.strides)


def _rows(table: FloatArray, order: Sequence[int]) -> FloatArray:
    return table[: len(order)] if _repeats(table) else table[order]
