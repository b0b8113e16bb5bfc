"""The map of a draft's uncertainty in a real Orthanc: stored, read back, no series to draft, gone with its draft."""

import numpy as np
import pytest

from lib.cli.orthanc_process import OrthancProcess
from lib.dicom.pmap import read_pmap
from lib.workflows.ingest import ingest_once, reconcile
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import deliver_outbox, load_series, presegment
from lib.workflows.services import Services
from loop import body, install, register_random_model, upload


@pytest.fixture
def services(own_orthanc: OrthancProcess, tmp_path) -> Services:
    return install(own_orthanc, tmp_path / "var", presegment__uncertainty_map="true", presegment__automatic="false")


def maps(services: Services) -> list[str]:
    """UIDs of the series of maps in the archive."""
    return [header.series_uid for header in services.archive.series() if header.modality == "OT"]


def test_a_map_goes_to_the_archive_with_its_draft_and_leaves_with_it(services: Services, tmp_path) -> None:
    task = services.task()
    uid = upload(services, body(), "p1").series_uid
    reconcile(services)
    champions = ChampionCache(services, check_every_s=0)
    register_random_model(services, task, tmp_path / "m1", seed=1)
    first = presegment(services, champions, task, uid)
    while deliver_outbox(services):
        continue
    (stored,) = maps(services)
    source = load_series(services, uid)
    (dataset,) = services.archive.fetch(stored)
    predicted = champions.predictor(task.name)[0].predict(source.volume)
    np.testing.assert_allclose(read_pmap(dataset, source), predicted.entropy.astype(np.float32), atol=2e-3)
    assert dataset.StudyInstanceUID == source.study_uid
    before = [row.series_uid for row in services.ledger.series.list()]
    for look in (ingest_once, reconcile):
        assert look(services).series == 0
    assert [row.series_uid for row in services.ledger.series.list()] == before == [uid]
    register_random_model(services, task, tmp_path / "m2", seed=2)
    assert presegment(services, champions, task, uid) != first
    while deliver_outbox(services):
        continue
    (newer,) = maps(services)
    assert newer != stored
