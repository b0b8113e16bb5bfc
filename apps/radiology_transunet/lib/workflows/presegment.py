"""A series becomes a draft: fetch, predict, record, deliver.

The draft's row, its SEG file, the map of its uncertainty when one is asked for, and its scores are written in one
transaction; the files then wait in the outbox until the archive has them. Their SOP instance UIDs are fixed in the
rows, so that a delivery that is repeated after a crash stores nothing twice. A map leaves the archive with its draft.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from lib.core.errors import ArchiveUnavailable, Conflict, InconsistentSeries, LabelError, ManifestMismatch, NotFound
from lib.core.estimated import EstimatedDice
from lib.core.values import LabelEvidence, Mask, Prediction
from lib.dicom.files import encode
from lib.dicom.pmap import QUANTITIES, write_pmap
from lib.dicom.seg import MAX_TEXT, SegOrigin, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid
from lib.ledger.rows import Companion, JobRow, NewDraft, OutboxRow
from lib.taskfile import Task
from lib.workflows.estimates import described
from lib.workflows.jobs import DRAFT, LATER, SOON, draft_key
from lib.workflows.models import ChampionCache, require_champion
from lib.workflows.pauses import failures_before, is_resting
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

MODEL_AUTHOR = "radiology_transunet"
OUTBOX_CLAIM_S = 60.0
Report = Callable[[float], None]


class SeriesGone(NotFound):
    """A series has left the archive; the ledger knows by now."""


@dataclass(frozen=True, slots=True)
class SeriesPrediction:
    """What a model version says of a series.

    Attributes:
        prediction: on the series' own grid.
        source: the series.
        model_version: the version that predicted.
        estimates: the estimated Dice of each label; empty where the version has none.
    """

    prediction: Prediction
    source: SourceSeries
    model_version: int
    estimates: Mapping[str, EstimatedDice] = field(default_factory=dict)


def load_series(services: Services, series_uid: str) -> SourceSeries:
    """Fetch a series and assemble its volume.

    Raises:
        NotFound: the archive does not hold it.
        InconsistentSeries: it makes no volume.
        UnreadablePixels: its pixel data cannot be decoded.
        ArchiveUnavailable: the archive does not answer.
    """
    return assemble(services.archive.fetch(series_uid))


def predict_series(
    services: Services, champions: ChampionCache, task: Task, series_uid: str, report: Report | None = None
) -> SeriesPrediction:
    """What the champion says of a series; nothing is recorded.

    Raises:
        NoChampion: no model serves the task.
        InconsistentSeries: the series is not for this task, or makes no volume.
    """
    champions.predictor(task.name)  # without a model nothing is fetched
    return _predict(champions, task, load_series(services, series_uid), report)


def presegment(
    services: Services,
    champions: ChampionCache,
    task: Task,
    series_uid: str,
    job: JobRow | None = None,
    report: Report | None = None,
) -> int:
    """Make a draft of a series and put it into the outbox; a draft that finds nothing has no file.

    Returns:
        The id of the draft's annotation.

    Raises:
        Conflict: a person labelled the series meanwhile, or the job was taken away.
        SeriesGone: the archive does not hold the series any more; it is marked so.
        ManifestMismatch: the job's version cannot be loaded, and the version that serves instead has drafted already.
    """
    champions.predictor(task.name)  # without a model nothing is fetched
    if job is not None:
        _require_wanted(services, champions, task, series_uid)
    instances = services.ledger.series.get(series_uid).instances  # as known before the images are fetched
    made = _predict(champions, task, load_or_mark(services, series_uid), report)
    draft, origin = _draft(task, series_uid, made), _origin(task, made)
    payload = seg_file(made.prediction.mask, made.source, origin, draft.sop_instance_uid, draft.seg_series_uid)
    maps = _maps(services, made, replace(origin, description=f"Uncertainty {task.name} v{made.model_version}"))
    said = made.prediction
    return services.ledger.annotations.add_draft(
        draft,
        payload,
        said.scores,
        said.embedding,
        job,
        companions=maps,
        values=kept_values(said),
        estimates=made.estimates,
        instances=instances,
    )


def kept_values(prediction: Prediction) -> dict[str, dict[str, float]]:
    """What the ledger keeps besides the entropy's scores: the other quantities and the evidence, by label name."""
    values = {name: dict(by_label) for name, by_label in prediction.quantities.items() if name != "entropy"}
    evidence = {label: asdict(shown) for label, shown in prediction.evidence.items()}
    names = [field.name for field in fields(LabelEvidence)]
    return values | {name: {label: shown[name] for label, shown in evidence.items()} for name in names}


def _draft(task: Task, series_uid: str, made: SeriesPrediction) -> NewDraft:
    """The row of a draft, with new UIDs for its SEG unless it is empty."""
    mask = made.prediction.mask
    sop_uid, seg_series_uid = (None, None) if mask.is_empty else (new_uid(), new_uid())
    return NewDraft(
        series_uid=series_uid,
        task=task.name,
        author=MODEL_AUTHOR,
        model_version=made.model_version,
        origin="model",
        sop_instance_uid=sop_uid,
        seg_series_uid=seg_series_uid,
        voxels=mask.voxels(),
        nothing_found=mask.is_empty,
    )


def _origin(task: Task, made: SeriesPrediction) -> SegOrigin:
    """What the SEG says of who made it."""
    return SegOrigin(
        kind="AUTOMATIC",
        author=MODEL_AUTHOR,
        algorithm_name=f"TransUNet {task.name}",
        algorithm_version=str(made.model_version),
        description=described(f"Draft {task.name} v{made.model_version}", made.estimates, MAX_TEXT),
    )


def _predict(champions: ChampionCache, task: Task, source: SourceSeries, report: Report | None) -> SeriesPrediction:
    require_suitable(source, task)
    predictor, version = champions.predictor(task.name)
    prediction = predictor.predict(source.volume, report)
    return SeriesPrediction(prediction, source, version, champions.estimates(task.name, version, prediction))


def load_or_mark(services: Services, series_uid: str) -> SourceSeries:
    """The series; one that has left the archive is marked as gone, so that nobody asks for its draft again."""
    try:
        return load_series(services, series_uid)
    except NotFound as error:
        services.ledger.series.set_gone(series_uid)
        raise SeriesGone(str(error)) from error


def seg_file(
    mask: Mask, source: SourceSeries, origin: SegOrigin, sop_uid: str | None, series_uid: str | None
) -> bytes | None:
    """The mask as an encoded SEG, or None for an empty one: "nothing found" is recorded, not stored."""
    if sop_uid is None:
        return None
    return encode(write_seg(mask, source, origin, sop_uid, series_uid))


def _maps(services: Services, made: SeriesPrediction, origin: SegOrigin) -> tuple[Companion, ...]:
    """The map of a prediction's uncertainty, where the settings want one; without samples that of its entropy."""
    if not services.settings.presegment.uncertainty_map:
        return ()
    prediction, wanted = made.prediction, services.settings.uncertainty.map
    values, name = prediction.entropy, "entropy"
    if wanted == "bald" and prediction.information is not None:
        values, name = prediction.information, "bald"
    classes = len(prediction.mask.schema) + 1
    sop_uid, series_uid = new_uid(), new_uid()
    grid = prediction.geometry
    content = write_pmap(values, grid, made.source, QUANTITIES[name], origin, classes, sop_uid, series_uid)
    return (Companion(sop_uid, series_uid, encode(content)),)


def enqueue_drafts(services: Services, task: Task, insist: bool = False) -> int:
    """A job for each ready series that has neither a human label nor a draft of the champion; how many are new.

    Series that no version has scored go before the others, in each part the newest arrival first. With
    `presegment.redraft` off, a series that has a draft of any version keeps it. A series whose last draft by this
    version failed rests first, the longer the more often it failed, unless the caller insists.

    Raises:
        NoChampion: no model serves the task.
    """
    champion = require_champion(services, task)
    wanted = services.ledger.annotations.undrafted(task.name, champion.version)
    suitable = suitable_series(services, task)
    if not services.settings.presegment.redraft:
        wanted = [uid for uid in wanted if services.ledger.annotations.latest_draft(uid, task.name) is None]
    failed = _failed_drafts(services, task, champion.version)
    now, scored = services.ledger.jobs.clock(), services.ledger.scorings.scored(task.name)
    payloads: dict[int, list[tuple[dict[str, object], str]]] = {SOON: [], LATER: []}
    for uid in wanted:
        if uid in suitable and (insist or not is_resting(failed.get(uid), now)):
            made = draft_job(task, uid, champion.version, failures_before(failed.get(uid)))
            payloads[LATER if uid in scored else SOON].append(made)
    add, attempts = services.ledger.jobs.add_many, services.settings.worker.attempts
    return sum(add(DRAFT, task.name, jobs, attempts, priority) for priority, jobs in payloads.items())


def draft_job(task: Task, series_uid: str, version: int, failures: int = 0) -> tuple[dict[str, object], str]:
    """Payload and key of a draft's job.

    Args:
        task: to draft for.
        series_uid: to draft.
        version: that serves when the job is made; the job drafts with what serves when it is done.
        failures: jobs for the same draft that failed before.
    """
    payload: dict[str, object] = {"series_uid": series_uid, "version": version, "failures": failures}
    return payload, draft_key(task.name, series_uid)


def _failed_drafts(services: Services, task: Task, version: int) -> dict[str, JobRow]:
    """The last draft job of each series where it failed for this version, by series."""
    jobs = services.ledger.jobs.last_failed(DRAFT, task.name)
    return {str(job.payload["series_uid"]): job for job in jobs if job.payload.get("version", version) == version}


def deliver_outbox(services: Services, limit: int = 10) -> int:
    """Bring what waits in the outbox to the archive, one file in memory at a time; how many rows are done.

    Raises:
        ArchiveUnavailable: the archive is away; what waits goes on waiting.
    """
    delivered = 0
    for row in _claimed(services, limit):
        try:
            if row.action == "delete":
                services.archive.delete_series(row.series_uid)
            elif row.payload is not None:
                services.archive.store([row.payload])
        except LabelError as error:
            services.ledger.outbox.failed(row.id, str(error))
            if isinstance(error, ArchiveUnavailable):
                raise
            logger.error("%s of object %s failed and will be tried again: %s", row.action, row.sop_instance_uid, error)
            continue
        services.ledger.outbox.done(row.id)
        delivered += 1
    return delivered


def _claimed(services: Services, limit: int) -> Iterator[OutboxRow]:
    """What waits in the outbox, claimed one by one: a map of a large series has more than 100 MB."""
    for _ in range(limit):
        found = services.ledger.outbox.pending(1, OUTBOX_CLAIM_S)
        if not found:
            return
        yield found[0]


def suitable_series(services: Services, task: Task) -> frozenset[str]:
    """Ready series that the task takes, by modality and description."""
    ready = services.ledger.series.list(status="ready")
    return frozenset(row.series_uid for row in ready if task.why_not(row.modality, row.description) is None)


def _require_wanted(services: Services, champions: ChampionCache, task: Task, series_uid: str) -> None:
    """Raise Conflict when a queued draft has become needless: a person was faster, or the champion drafted it."""
    version = champions.predictor(task.name)[1]
    champion = require_champion(services, task).version
    for row in services.ledger.annotations.list(task=task.name, series_uid=series_uid):
        if row.origin == "human" and row.status in ("submitted", "accepted"):
            raise Conflict(f"series {series_uid} has a human label for {task.name}: annotation {row.id}")
        if row.origin == "model" and row.status == "draft" and row.model_version == version:
            if version != champion:
                raise ManifestMismatch(
                    f"series {series_uid} is to be drafted by version {champion}, but {version} serves"
                )
            raise Conflict(f"series {series_uid} has a draft by version {version} already: annotation {row.id}")


def require_suitable(source: SourceSeries, task: Task) -> None:
    """Raise InconsistentSeries when the task does not take the series."""
    reason = task.why_not(source.volume.modality, source.description)
    if reason is not None:
        raise InconsistentSeries(reason)
