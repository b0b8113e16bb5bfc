"""A draft and the map of its uncertainty travel together."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from lib.core.values import Mask, Prediction, Volume
from lib.dicom.orthanc import SeriesHeader
from lib.dicom.pmap import read_pmap
from lib.inference.quality import EstimatedDice
from lib.workflows import presegment as presegment_module
from lib.workflows.arrivals import take_in_header
from lib.workflows.presegment import deliver_outbox, load_series, presegment
from lib.workflows.services import Services


class Guess:
    """Stands in for a champion and its cache: finds a block of the first label, unsure at its border."""

    def __init__(self, services: Services, version: int = 1, sampled: bool = False, empty: bool = False) -> None:
        self.schema, self.version, self.sampled, self.empty = services.task().schema, version, sampled, empty

    def predictor(self, _: str) -> tuple["Guess", int]:
        return self, self.version

    def estimates(self, _: str, version: int, prediction: Prediction) -> dict[str, EstimatedDice]:
        return {name: EstimatedDice(0.9, 0.8, 0.95, True) for name in self.schema.names}

    def predict(self, volume: Volume, report: object = None) -> Prediction:
        mask, nats = np.zeros(volume.array.shape, np.uint8), np.zeros(volume.array.shape, np.float16)
        if not self.empty:
            mask[2:4, 4:9, 5:9] = self.schema.ids[0]
        nats[2:4, 4:9, 5] = 0.5
        information = nats / np.float16(4) if self.sampled else None
        scores = dict.fromkeys(self.schema.names, 0.5)
        embedding = np.ones(3, np.float32)
        return Prediction(Mask(mask, volume.geometry, self.schema), nats, scores, embedding, information=information)


@pytest.fixture
def with_maps(services: Services) -> Callable[[str], Services]:
    """The rooms with maps of that quantity switched on."""

    def make(quantity: str = "entropy") -> Services:
        settings = services.settings
        drafts = replace(settings.presegment, uncertainty_map=True)
        kind = replace(settings.uncertainty, kind="ensemble", map=quantity)
        return replace(services, settings=replace(settings, presegment=drafts, uncertainty=kind))

    return make


def draft(services: Services, uid: str, **options: object) -> int:
    return presegment(services, Guess(services, **options), services.task(), uid)  # type: ignore[arg-type]


def waiting(services: Services) -> list[tuple[str, str]]:
    """(action, UID of the series) of what the archive has to be told."""
    return [(row.action, row.series_uid) for row in services.ledger.outbox.pending(100)]


def maps_in_archive(services: Services, uid: str) -> list[np.ndarray]:
    """The maps that lie on a series."""
    source = load_series(services, uid)
    folders = services.archive.folder.glob("*/")  # type: ignore[attr-defined]
    found = [services.archive.fetch(folder.name) for folder in folders if any(folder.glob("*.dcm"))]
    return [read_pmap(series[0], source) for series in found if series[0].Modality == "OT"]


@pytest.mark.parametrize(
    ("quantity", "sampled", "peak"), [("entropy", True, 0.5), ("bald", True, 0.125), ("bald", False, 0.5)]
)
def test_the_map_of_a_draft_reaches_the_archive_with_its_values(
    with_maps: Callable[[str], Services], add_series: Callable[..., str], quantity: str, sampled: bool, peak: float
) -> None:
    services, uid = with_maps(quantity), add_series("p1")
    draft(services, uid, sampled=sampled)
    assert deliver_outbox(services) == 2
    (found,) = maps_in_archive(services, uid)
    assert set(np.unique(found).tolist()) == {0.0, peak}
    assert found[2, 4, 5] == np.float32(peak)
    assert services.ledger.annotations.latest_draft(uid, services.task().name).stored_at is not None


def test_without_the_option_no_map_is_made(services: Services, add_series: Callable[..., str]) -> None:
    uid = add_series("p1")
    draft(services, uid)
    assert deliver_outbox(services) == 1
    assert maps_in_archive(services, uid) == []


def test_a_newer_draft_takes_the_older_ones_map_along(
    with_maps: Callable[[str], Services], add_series: Callable[..., str]
) -> None:
    services, uid = with_maps("entropy"), add_series("p1")
    draft(services, uid)
    deliver_outbox(services)
    draft(services, uid, version=2)
    assert [action for action, _ in waiting(services)] == ["delete", "delete", "store", "store"]
    deliver_outbox(services)
    assert waiting(services) == []
    assert len(maps_in_archive(services, uid)) == 1


def test_a_series_in_which_nothing_was_found_still_has_its_map(
    with_maps: Callable[[str], Services], add_series: Callable[..., str]
) -> None:
    services, uid = with_maps("entropy"), add_series("p1")
    draft(services, uid, empty=True)
    assert deliver_outbox(services) == 1
    assert len(maps_in_archive(services, uid)) == 1
    assert services.ledger.annotations.latest_draft(uid, services.task().name).stored_at is None


def test_an_archive_that_is_away_gets_draft_and_map_later(
    with_maps: Callable[[str], Services], add_series: Callable[..., str]
) -> None:
    services, uid = with_maps("entropy"), add_series("p1")
    draft(services, uid)
    services.archive.away = True  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="away"):
        deliver_outbox(services)
    assert services.ledger.outbox.open_count() == 2


def test_a_map_that_arrives_in_the_archive_is_no_series_to_draft(
    with_maps: Callable[[str], Services], add_series: Callable[..., str]
) -> None:
    services, uid = with_maps("entropy"), add_series("p1")
    draft(services, uid)
    deliver_outbox(services)
    known = {row.series_uid for row in services.ledger.series.list()}
    for folder in services.archive.folder.iterdir():  # type: ignore[attr-defined]
        first = services.archive.fetch(folder.name)[0]
        if first.Modality == "OT":
            header = SeriesHeader(
                series_uid=str(first.SeriesInstanceUID),
                study_uid=str(first.StudyInstanceUID),
                patient_id=str(first.PatientID),
                modality=str(first.Modality),
                description=str(first.SeriesDescription),
                instances=1,
                institution="",
                manufacturer=str(first.Manufacturer),
                date="",
            )
            assert not take_in_header(services, header).any
            break
    else:
        pytest.fail("no map arrived")
    assert {row.series_uid for row in services.ledger.series.list()} == known


def test_the_description_of_a_draft_tells_its_least_estimate(
    services: Services, add_series: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presegment_module, "described", lambda text, told, room: f"{told['ball'].value} within {room}")
    uid = add_series("p1")
    draft(services, uid)
    (row,) = services.ledger.outbox.pending(1)
    assert row.payload is not None
    assert dcmread(io.BytesIO(row.payload)).SeriesDescription == "0.9 within 64"


def test_a_draft_is_kept_with_its_estimates(services: Services, add_series: Callable[..., str]) -> None:
    made = draft(services, add_series("p1"))
    assert services.ledger.estimates.of([made])[made] == {
        name: EstimatedDice(0.9, 0.8, 0.95, True) for name in services.task().schema.names
    }
