"""What a data team may ask of cases, checked before anything is looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from lib.core.errors import InvalidInput
from lib.ledger.curationrows import CURATED_STATES
from lib.selection.pool import QUANTITIES
from lib.workflows.collect import Split

Range = tuple[float | None, float | None]
"""The least and the largest value that is wanted; None = any."""
ANY: Range = (None, None)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is wanted; everything must hold. "" and None = whatever it is.

    Volume and uncertainty are what a model said last, the estimated Dice is of the newest draft. Where they are wanted,
    the label must have all of them; without a label any one of the task's labels. Where they are not, the label must be
    drawn or predicted.

    Attributes:
        label: name, without regard to case.
        volume_ml: predicted volume in millilitres; 0 = not predicted.
        quantity: of `QUANTITIES`, which uncertainty.
        uncertainty: nats for entropy and bald, else in [0, 1].
        dice: estimated, in [0, 1]; what the model does not know has none.
        site: institution without regard to case; * and ? stand for any letters and one.
        since: first date of the series that is wanted; a series without a date has none.
        until: last date.
        state: one of `CURATED_STATES`.
        split: one of the splits.
        tag: that the series has.
        cohort: that the series is in.
        patient: beginning of the pseudonym.

    Raises:
        InvalidInput: bounds that are no numbers or the wrong way round, an unknown word.
    """

    label: str = ""
    volume_ml: Range = ANY
    quantity: str = "entropy"
    uncertainty: Range = ANY
    dice: Range = ANY
    site: str = ""
    since: date | None = None
    until: date | None = None
    state: str = ""
    split: str = ""
    tag: str = ""
    cohort: str = ""
    patient: str = ""

    def __post_init__(self) -> None:
        for name in ("volume_ml", "uncertainty", "dice"):
            _require_range(name, getattr(self, name))
        if self.since and self.until and self.since > self.until:
            raise InvalidInput(f"since must not be after until, got {self.since} and {self.until}")
        require_word("quantity", self.quantity, QUANTITIES)
        for name, known in (("state", CURATED_STATES), ("split", tuple(Split))):
            if getattr(self, name):
                require_word(name, getattr(self, name), known)

    @property
    def asks_for_numbers(self) -> bool:
        """Whether numbers of the draft are wanted."""
        return self.volume_ml != ANY or self.uncertainty != ANY or self.dice != ANY


def require_word(what: str, value: str, known: Sequence[str]) -> None:
    """Raise InvalidInput unless the word is one of those that are known."""
    if value not in known:
        raise InvalidInput(f"{what} must be one of {', '.join(known)}, got {value!r}")


def day(text: str) -> date | None:
    """A date in ISO 8601 (2026-01-31) or as DICOM has it (20260131); None for an empty text.

    Raises:
        InvalidInput: anything else.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise InvalidInput(f"a date must be like 2026-01-31 or 20260131, got {text!r}") from error


def _require_range(name: str, bounds: Range) -> None:
    given = [bound for bound in bounds if bound is not None]
    if not all(math.isfinite(bound) for bound in given):
        raise InvalidInput(f"bounds of {name} must be finite numbers, got {bounds}")
    if len(given) == 2 and given[0] > given[1]:
        raise InvalidInput(f"the least {name} must not be above the largest, got {given[0]:g} and {given[1]:g}")
