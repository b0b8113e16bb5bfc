"""Facts of cases, and the labelled cases that a pool is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput
from lib.selection.arrays import BoolArray, FloatArray, IntArray, Vectors

Array = TypeVar("Array", bound=npt.NDArray[Any])

STRATUM = ("sites", "scanners", "protocols")


@dataclass(frozen=True, slots=True)
class Facts:
    """Where cases come from, each (n,); "" = unknown.

    Attributes:
        patients: pseudonyms.
        sites: where they were acquired.
        scanners: on what.
        protocols: and how.
    """

    patients: tuple[str, ...]
    sites: tuple[str, ...]
    scanners: tuple[str, ...]
    protocols: tuple[str, ...]

    @classmethod
    def unknown(cls, count: int) -> "Facts":
        """Of cases that nothing is known of."""
        nothing = ("",) * count
        return cls(nothing, nothing, nothing, nothing)

    def strata(self) -> list[tuple[str, str, str]]:
        """(site, scanner, protocol) by case."""
        return list(zip(self.sites, self.scanners, self.protocols, strict=True))

    def take(self, order: Sequence[int]) -> "Facts":
        """Those of the cases `order`."""
        columns = (self.patients, self.sites, self.scanners, self.protocols)
        return Facts(*(tuple(column[i] for i in order) for column in columns))

    def check(self, count: int, what: str) -> None:
        """Raise InvalidInput unless every fact is there for `count` cases."""
        for name in ("patients", *STRATUM):
            if len(getattr(self, name)) != count:
                raise InvalidInput(f"{what}: {name} must be of {count} cases, got {len(getattr(self, name))}")


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The cases that have an accepted annotation; see `Pool` for what values mean.

    Attributes:
        ids: (m,) each once.
        presence: (m, n_labels) whether the annotation holds the label.
        embeddings: (m, d); NaN = none.
        versions: (m,) model version of the embedding.
        facts: of the cases.

    Raises:
        InvalidInput: arrays of other sizes, an id twice, an embedding without a version.
    """

    ids: tuple[str, ...]
    presence: BoolArray
    embeddings: Vectors
    versions: IntArray
    facts: Facts

    def __post_init__(self) -> None:
        count = unique(self.ids, "labelled")
        presence = np.array(self.presence, dtype=np.bool_)
        if presence.ndim != 2 or len(presence) != count:
            raise InvalidInput(f"labelled: presence must be ({count} cases, n labels), got shape {presence.shape}")
        embeddings, versions = embedded(self.embeddings, self.versions, count, "labelled")
        self.facts.check(count, "labelled")
        assign(self, presence=fixed(presence), embeddings=embeddings, versions=versions)

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        presence: npt.ArrayLike,
        embeddings: npt.ArrayLike | None = None,
        versions: npt.ArrayLike | None = None,
        facts: Facts | None = None,
    ) -> "Labelled":
        """Labelled cases of which some things are not known: no embeddings, all of one model, no facts."""
        count = len(ids)
        return cls(
            tuple(ids),
            np.asarray(presence, dtype=np.bool_),
            np.empty((count, 0), dtype=np.float32) if embeddings is None else np.asarray(embeddings, dtype=np.float32),
            np.zeros(count, dtype=np.int64) if versions is None else np.asarray(versions, dtype=np.int64),
            facts or Facts.unknown(count),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def frequency(self) -> FloatArray:
        """(n_labels,) share of the labelled cases that hold each label; 0 when nothing is labelled."""
        return np.asarray(self.presence.sum(axis=0) / max(1, len(self)), dtype=np.float64)

    def sorted(self) -> "Labelled":
        """The same cases in the order of their ids."""
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        ids = tuple(self.ids[i] for i in order)
        return Labelled(
            ids, self.presence[order], fixed(self.embeddings[order]), self.versions[order], self.facts.take(order)
        )


def unique(ids: Sequence[str], what: str) -> int:
    """How many ids there are; raises InvalidInput when one occurs twice."""
    if len(set(ids)) != len(ids):
        raise InvalidInput(f"{what}: each case may be named once, got {len(ids)} ids of {len(set(ids))} cases")
    return len(ids)


def embedded(values: Vectors, versions: IntArray, count: int, what: str) -> tuple[Vectors, IntArray]:
    """Embeddings (count, d) and versions (count,), checked; a row with anything not finite is NaN throughout.

    A read-only array of such rows is taken as it is: of many cases a copy would be the largest thing in memory.
    """
    rows, numbers = np.asarray(values, dtype=np.float32), np.array(versions, dtype=np.int64)
    if rows.ndim != 2 or len(rows) != count or numbers.shape != (count,):
        raise InvalidInput(
            f"{what}: embeddings must be ({count} cases, d) with a version each, got {rows.shape} and {numbers.shape}"
        )
    known = np.isfinite(rows).all(axis=1)
    if rows.flags.writeable or not np.isnan(rows[~known]).all():
        rows = np.where(known[:, None], rows, np.float32(np.nan))
    if rows.shape[1] and (known & (numbers < 0)).any():
        raise InvalidInput(f"{what}: an embedding needs the version of the model that made it, 0 or more")
    return fixed(rows), fixed(numbers)


def fixed(array: Array) -> Array:
    """The array, read-only from now on."""
    array.flags.writeable = False
    return array


def assign(value: object, **fields: object) -> None:
    """Set fields of a frozen value, for its constructor."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)
