"""Options of the selection."""

from dataclasses import dataclass
from typing import Literal

from lib.core.errors import InvalidSettings

Quantity = Literal["entropy", "bald", "margin", "disagreement"]
SAMPLED: frozenset[str] = frozenset({"bald", "disagreement"})
"""Quantities, and the strategies of that name, that compare samples of a model: one answer alone has none."""
StrategyName = Literal[
    "default",
    "random",
    "stratified_random",
    "foreground_random",
    "entropy",
    "bald",
    "margin",
    "disagreement",
    "classwise_power",
    "diverse",
    "hybrid",
    "typical",
    "rare",
]


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the default strategy; what they are of the sum of all counts.

    Attributes:
        classwise_power: of cases that one label makes uncertain, and of plainly uncertain ones.
        rare: of cases that show a rare label or are unlike the labelled ones.
        typical: of cases that stand for many others.
        diverse: of cases far from all labelled ones.
    """

    classwise_power: float
    rare: float
    typical: float
    diverse: float

    def __post_init__(self) -> None:
        for name in ("classwise_power", "rare", "typical", "diverse"):
            share = getattr(self, name)
            _require(f"mix.{name}", share, 0 <= share < float("inf"), "0 or more")
        total = self.classwise_power + self.rare + self.typical + self.diverse
        _require("mix, its sum,", total, total > 0, "above 0")


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """How strategies rank.

    Attributes:
        depth: cases that quotas, caps and distances rank one after the other; those behind stand by uncertainty.
        quantity: the uncertainty that classwise_power, hybrid and the cases behind `depth` use.
        power_first: beta of the power noise before anything is labelled; small = nearly at random.
        power_last: beta once `power_cases` are labelled; large = nearly by score alone.
        power_cases: labelled cases over which beta grows, exponentially.
        entropy_share: share of classwise_power that goes by the mean over labels; the labels share the rest.
        rare_weight: factor on the quota of a label that the task calls rare.
        rare_below: share of the labelled cases below which a label counts as rare in any task.
        patient_cap: cases of one patient, labelled ones counted, before others had their turn; 0 = no cap.
        site_cap: largest share of one site among labelled and ranked cases while other sites have any; 1 = no cap.
        spread: how `diverse` and `hybrid` spread cases over the embeddings.
        hybrid_share: share of the scored cases, the most uncertain ones, that `hybrid` spreads its cases over.
        clusters: that `typical` makes besides one for each labelled case.
        typical_neighbours: nearest cases of its cluster that say how typical a case is.
        rare_neighbours: nearest labelled cases that say how unlike them a case is.
        components: of the Gaussian mixture on the labelled embeddings.
        presence_min: probability from which on a label that is not predicted counts as perhaps present.
        presence_share: share of `rare` that goes by presence of rare labels; the rest is unlike the labelled.
        cold_start: labelled cases below which the default strategy is `cold_strategy`.
        cold_strategy: what ranks then; foreground_random where there are no embeddings.
        mix: shares of the default strategy.
    """

    depth: int
    quantity: Quantity
    power_first: float
    power_last: float
    power_cases: int
    entropy_share: float
    rare_weight: float
    rare_below: float
    patient_cap: int
    site_cap: float
    spread: Literal["k-center", "k-means++"]
    hybrid_share: float
    clusters: int
    typical_neighbours: int
    rare_neighbours: int
    components: int
    presence_min: float
    presence_share: float
    cold_start: int
    cold_strategy: Literal["typical", "foreground_random", "stratified_random"]
    mix: Mix

    def __post_init__(self) -> None:
        for name in ("depth", "power_cases", "clusters", "typical_neighbours", "rare_neighbours", "components"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("entropy_share", "rare_below", "presence_min", "presence_share"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("site_cap", "hybrid_share"):
            _require(name, getattr(self, name), 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        for name in ("patient_cap", "cold_start"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _require("power_first", self.power_first, 0 < self.power_first < float("inf"), "above 0")
        _require("power_last", self.power_last, self.power_last >= self.power_first, "at least power_first")
        _require("rare_weight", self.rare_weight, 1 <= self.rare_weight < float("inf"), "at least 1")


def _require(name: str, value: float, holds: bool, wanted: str) -> None:
    if not holds:
        raise InvalidSettings(f"selection.{name} must be {wanted}, got {value:g}")
