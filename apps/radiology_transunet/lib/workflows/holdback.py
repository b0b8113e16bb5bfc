"""Labels that look like a mistake: a reviewer looks at them before anything learns from them.

Three kinds are told from the label, its image and the draft that it corrects: one that is empty although something was
to be expected, one with a label beside the patient, and one that agrees with the draft nowhere, in place or in name, as
a label of another series would. Each may be meant, so nothing is refused: the reason is kept with the label and told to
whoever saved it. A model that draws at the wrong place, or under the wrong names, does not hold back all corrections:
once reviewers have released some labels that agree with its drafts nowhere, its drafts are not believed in that any
more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from lib.core.body import off_body
from lib.core.values import Mask, Volume
from lib.ledger.corrections import CorrectionRow
from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.config import ReviewConfig

NONE: Mapping[str, float] = {}


def why_held(
    config: ReviewConfig,
    task: Task,
    volume: Volume,
    mask: Mask,
    draft: AnnotationRow | None = None,
    agreement: Mapping[str, float] = NONE,
    earlier: Callable[[], Sequence[CorrectionRow]] = tuple,
) -> str:
    """Why a person's label has to wait for a reviewer, in words; "" when it need not.

    Args:
        config: what is looked at.
        task: whose label it is.
        volume: the image.
        mask: the label, on the image's grid.
        draft: that it corrects, None without one.
        agreement: Dice with that draft by label; without any the draft is not compared.
        earlier: gives the corrections in force of the drafts of that model version.
    """
    if not config.hold_back:
        return ""
    if mask.is_empty:
        return _why_not_empty(task, draft) if config.hold_empty else ""
    if beside := _beside_the_body(config, volume, mask):
        return beside
    shared, unlike = _unlike_the_draft(config, mask, draft, agreement)
    disproved = _places_disproved if shared else _names_disproved
    return "" if unlike and disproved(config, earlier()) else unlike


def advice(annotation_id: int, reason: str) -> str:
    """What whoever saved a label that is held back is told."""
    return (
        f"Label {annotation_id} is kept but held back until a reviewer has looked at it: {reason}. "
        "If it is a mistake, save the label again; the new one replaces it."
    )


def _why_not_empty(task: Task, draft: AnnotationRow | None) -> str:
    if draft is not None:
        shown = _names(name for name, count in draft.voxels.items() if count)
        return "" if draft.nothing_found else f"it is empty, but the draft shows {shown or 'something'}"
    if task.common_labels:
        return f"it is empty, but every case of task {task.name} is expected to show {_names(task.common_labels)}"
    return ""


def _beside_the_body(config: ReviewConfig, volume: Volume, mask: Mask) -> str:
    found = off_body(volume, mask, config.min_tissue)
    if not found:
        return ""
    shares = _names(f"{name} ({share:.0%} of its voxels)" for name, share in found.items())
    return f"it lies beside the patient, where the image shows no tissue: {shares} within the body"


def _unlike_the_draft(
    config: ReviewConfig, mask: Mask, draft: AnnotationRow | None, agreement: Mapping[str, float]
) -> tuple[Mapping[str, float], str]:
    """Dice of the labels that both show, and in which words they differ everywhere; "" when they do not."""
    there = {} if draft is None else {name: count for name, count in draft.voxels.items() if count}
    if not there or not agreement:
        return NONE, ""
    here = mask.voxels()
    shared = {name: dice for name, dice in agreement.items() if here.get(name) and name in there}
    if max(shared.values(), default=0.0) > config.min_draft_dice:
        return shared, ""
    figures = _names(f"{name} (Dice {dice:.2f})" for name, dice in shared.items())
    apart = f"the draft shows {_names(there)}, the label {_names(name for name, count in here.items() if count)}"
    words = f"{figures or apart}; is it of another series, or are names exchanged?"
    return shared, f"it differs from the draft everywhere: {words}"


def _places_disproved(config: ReviewConfig, earlier: Sequence[CorrectionRow]) -> bool:
    """Whether enough labels that count, and half of all, agree nowhere with what the drafts of a model version share.

    What draft and label do not both show is missed or invented, which tells nothing of the place of a draft.
    """
    best: dict[int, float] = {}
    for row in (row for row in earlier if row.is_shared):
        best[row.annotation_id] = max(row.dice, best.get(row.annotation_id, -1.0))
    return _is_common(config, sum(dice <= config.min_draft_dice for dice in best.values()), len(best))


def _names_disproved(config: ReviewConfig, earlier: Sequence[CorrectionRow]) -> bool:
    """Whether enough labels that count, and half of all, have no name in common with the drafts of a model version.

    Where the draft or the label shows nothing, names are missed or invented, however many: none is taken for another.
    """
    by_label: dict[int, list[CorrectionRow]] = {}
    for row in earlier:
        by_label.setdefault(row.annotation_id, []).append(row)
    both = [rows for rows in by_label.values() if any(r.is_drafted for r in rows) and any(r.is_drawn for r in rows)]
    return _is_common(config, sum(not any(row.is_shared for row in rows) for rows in both), len(both))


def _is_common(config: ReviewConfig, unlike: int, of: int) -> bool:
    return unlike >= config.disbelieve_after and 2 * unlike >= of


def _names(words: Iterable[str]) -> str:
    return ", ".join(words)
