"""What is measured of a predicted label, as numbers that a regression can use.

How plausible volume and number of parts are is measured against what people have drawn: a volume counts by its
distance to the mean of the logarithm of annotated volumes of that label, in standard deviations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lib.core.values import LabelEvidence

FloatArray = npt.NDArray[np.float64]
FEATURES = ("agreement", "certainty", "boundary", "peak", "smallness", "largeness", "parts", "edge")
"""Columns, in their order: logits of samples' Dice, of mean and largest probability; entropy at the boundary in nats;
standard deviations below and above the usual volume; logarithm of the number of parts; share of slices at the edge."""
SURE = 1e-3
"""Shares nearer than this to 0 or 1 are not told apart."""
FEWEST_VOLUMES = 3
USUAL_SPREAD, LEAST_SPREAD = 0.4, 0.1
"""Standard deviation of the logarithm of a volume: of a label that was seen too rarely to know, and the least."""
MOST_ODD = 6.0


class Drawn(NamedTuple):
    """A label that a person drew on one image: whose image it is, and the volume in ml."""

    patient: str
    ml: float


@dataclass(frozen=True, slots=True)
class Plausible:
    """How large a label usually is.

    Attributes:
        log_ml: mean of the natural logarithm of its volume in ml.
        spread: standard deviation of that.
    """

    log_ml: float
    spread: float

    def oddness(self, volume_ml: float) -> float:
        """Standard deviations by which the volume is larger than usual, within +-6."""
        return float(np.clip((log(volume_ml) - self.log_ml) / self.spread, -MOST_ODD, MOST_ODD))


def plausible_volumes(drawn: Mapping[str, Sequence[Drawn]], without: str | None = None) -> Mapping[str, Plausible]:
    """Of each label that has volumes above 0, from what people drew, by label.

    Args:
        drawn: of any number of images.
        without: patient who is left out; None = nobody.
    """
    found = {}
    for label, volumes in drawn.items():
        logs = [log(one.ml) for one in volumes if one.ml > 0 and one.patient != without]
        if logs:
            spread = float(np.std(logs, ddof=1)) if len(logs) >= FEWEST_VOLUMES else USUAL_SPREAD
            found[label] = Plausible(float(np.mean(logs)), max(spread, LEAST_SPREAD))
    return MappingProxyType(found)


def features(evidence: LabelEvidence, plausible: Plausible | None) -> FloatArray:
    """The columns `FEATURES` (f,) of a label that is predicted somewhere; NaN where something is not known.

    Args:
        evidence: with a volume above 0.
        plausible: of the label; None when nobody has drawn it.
    """
    odd = 0.0 if plausible is None else plausible.oddness(evidence.volume_ml)
    return np.array(
        [
            _logit(evidence.samples_dice),
            _logit(evidence.mean_probability),
            evidence.boundary_entropy,
            _logit(evidence.largest_probability),
            max(0.0, -odd),
            max(0.0, odd),
            log(max(1, evidence.components)),
            evidence.edge_share,
        ],
        dtype=np.float64,
    )


def is_predicted(evidence: LabelEvidence | None) -> bool:
    """Whether there is anything to judge."""
    return evidence is not None and isfinite(evidence.volume_ml) and evidence.volume_ml > 0


def _logit(share: float) -> float:
    """ln(p / (1 - p)); NaN for NaN."""
    p = float(np.clip(share, SURE, 1 - SURE))
    return float(np.log(p / (1 - p)))
