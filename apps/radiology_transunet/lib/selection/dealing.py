"""One list from several: each place belongs to a quota by its share, and caps keep patients and sites apart."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray, IntArray
from lib.selection.config import SelectionConfig
from lib.selection.draws import number
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking
from lib.selection.uncertainty import by_quantity

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Quota:
    """A share of the places, and the order of the cases that fill them.

    Attributes:
        name: what it looks for, for the reasons.
        share: of the places, as part of the sum over all quotas.
        order: indices of the cases, the best one in front; it may leave cases out.
        scores: (n,) by case, larger = label first.
        why: what speaks for a case, in words.
    """

    name: str
    share: float
    order: IntArray
    scores: FloatArray
    why: Callable[[int], str]

    def scaled(self, factor: float) -> "Quota":
        """The same quota with another share."""
        return Quota(self.name, self.share * factor, self.order, self.scores, self.why)


def deal(pool: Pool, seed: int, options: SelectionConfig, quotas: Sequence[Quota]) -> Ranking:
    """Rank by quotas.

    The first `depth` places are dealt one after the other: a place belongs to a quota and gets its best case that is
    left and within the caps; where it has none, the next quota fills the place. The cases behind follow by
    uncertainty, without quotas or caps. Places are counted from the number of labelled cases on, so that a
    list that is made anew after each label goes on where it was.
    """
    behind = by_quantity(pool, seed, options)
    quotas = [quota for quota in quotas if quota.share > 0]
    whole = Quota("uncertainty", 0.0, behind.order, behind.scores, behind.reasons.__getitem__)
    places = place_quotas([quota.share for quota in quotas], len(pool.labelled), min(options.depth, len(pool)), seed)
    caps, left = Caps.of(pool, options), np.ones(len(pool), dtype=np.bool_)
    order: list[int] = []
    scores, reasons = behind.scores.copy(), list(behind.reasons)
    for place in places:
        quota, pick = _next([*quotas[place:], *quotas[:place], whole], left & caps.kept(left))
        order.append(pick)
        left[pick] = False
        caps.count(pick)
        scores[pick], reasons[pick] = quota.scores[pick], f"quota of {quota.name}: {quota.why(pick)}"
    order += [i for i in behind.order.tolist() if left[i]]
    return Ranking(np.array(order, dtype=np.int64), scores, tuple(reasons))


def place_quotas(shares: Sequence[float], first: int, count: int, seed: int) -> list[int]:
    """Which quota each of the places `first`, `first` + 1, ... belongs to.

    The multiples of the golden ratio, modulo 1, fall into the parts of the unit interval that are as long as the
    shares: in any run of places each quota has its share of them to within two, and large and small quotas
    mix from the start. The seed moves the beginning.
    """
    if not shares:
        return [0] * count
    ends = np.cumsum(shares) / sum(shares)
    positions = (number(seed, "places") + GOLDEN * np.arange(first, first + count)) % 1.0
    # without the last end, which rounding may leave below 1
    return [int(quota) for quota in np.searchsorted(ends[:-1], positions, side="right")]


def _next(quotas: Sequence[Quota], allowed: BoolArray) -> tuple[Quota, int]:
    """The first quota that has an allowed case, with its best one; the last quota has all cases."""
    for quota in quotas:
        found = allowed[quota.order]
        place = int(found.argmax()) if len(found) else 0
        if len(found) and found[place]:
            return quota, int(quota.order[place])
    raise AssertionError("some case is always allowed")


@dataclass(slots=True, eq=False)
class Caps:
    """How often each patient and site was ranked; labelled cases count.

    Attributes:
        patients: (n,) number of the patient of each case; every case of an unknown patient has its own.
        sites: (n,) number of the site; unknown = the last one, without a cap.
        by_patient: cases labelled or ranked of each patient.
        by_site: of each site.
        total: of all.
        patient_cap: cases of a patient in a round; 0 = any number.
        site_cap: share of a site.
    """

    patients: IntArray
    sites: IntArray
    by_patient: IntArray
    by_site: IntArray
    total: int
    patient_cap: int
    site_cap: float

    @classmethod
    def of(cls, pool: Pool, options: SelectionConfig) -> "Caps":
        """Before anything is ranked."""
        alone = [name or f"\0{case}" for name, case in zip(pool.facts.patients, pool.ids, strict=True)]
        patients, by_patient = _numbered(alone, pool.labelled.facts.patients)
        sites, by_site = _numbered(pool.facts.sites, pool.labelled.facts.sites)
        return cls(patients, sites, by_patient, by_site, len(pool.labelled), options.patient_cap, options.site_cap)

    def kept(self, left: BoolArray) -> BoolArray:
        """(n,) whether a case breaks the caps least of those that are left."""
        rounds = self.by_patient // self.patient_cap if self.patient_cap else np.zeros_like(self.by_patient)
        over = self.by_site + 1 > math.ceil(self.site_cap * (self.total + 1))
        over[-1] = False
        broken = rounds[self.patients] + over[self.sites]
        return np.asarray(broken == broken[left].min(), dtype=np.bool_)

    def count(self, pick: int) -> None:
        """One more case of this patient and site."""
        self.by_patient[self.patients[pick]] += 1
        self.by_site[self.sites[pick]] += 1
        self.total += 1


def _numbered(names: Sequence[str], before: Sequence[str]) -> tuple[IntArray, IntArray]:
    """A number for each name, and how many there were of each before; "" has the last number."""
    numbers = {name: number for number, name in enumerate(sorted({*names, *before} - {""}))}
    numbers[""] = len(numbers)
    counts = np.zeros(len(numbers), dtype=np.int64)
    np.add.at(counts, np.array([numbers[name] for name in before], dtype=np.int64), 1)
    return np.array([numbers[name] for name in names], dtype=np.int64), counts
