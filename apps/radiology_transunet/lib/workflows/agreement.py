"""How much of a draft a person left as it was."""

from lib.core.metrics import dice
from lib.core.values import Mask


def draft_dice(draft: Mask, correction: Mask) -> dict[str, float]:
    """Dice of each label by name, in [0, 1]; a label that neither shows has none.

    Raises:
        GeometryMismatch: the masks lie on different grids.
    """
    draft.geometry.require_same(correction.geometry, "the correction")
    found = {label.name: dice(draft.array == label.id, correction.array == label.id) for label in draft.schema}
    return {name: value for name, value in found.items() if value is not None}
