import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from lib.cli.orthanc_process import OrthancProcess, find_plugin, free_port, start_orthanc
from lib.core.errors import ArchiveUnavailable, Conflict, InvalidInput, NotFound
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.config import ArchiveConfig
from lib.dicom.files import decode, encode
from lib.dicom.orthanc import Archive
from lib.dicom.seg import SegOrigin, read_seg, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets

pytestmark = pytest.mark.orthanc

SCHEMA = LabelSchema((Label("liver", 1, (200, 60, 60), Code("10200004", "Liver")),))


def make_series(slices: int = 4) -> list[Dataset]:
    identity = SeriesIdentity(
        "ARCHIVE-1", "Arçhive^One", new_uid(), new_uid(), new_uid(), "dünn", date="20260101", institution="House"
    )
    array = np.random.default_rng(3).integers(-1000, 1000, (slices, 8, 6)).astype(np.float32)
    volume = Volume(array, Geometry.from_spacing((slices, 8, 6), (2.0, 1.0, 1.5)), "CT")
    return series_to_datasets(volume, identity)


def stable_uids(archive: Archive, since: int) -> list[str]:
    """Series reported stable after a change number, following the feed to its end."""
    found, done = [], False
    while not done:
        page = archive.changes(since, limit=7)
        found += [change.series_uid for change in page.changes if change.kind == "StableSeries"]
        since, done = page.last, page.done
    return found


def wait_stable(archive: Archive, series_uid: str, since: int = 0) -> None:
    deadline = time.monotonic() + 20
    while series_uid not in stable_uids(archive, since):
        assert time.monotonic() < deadline, "the series did not become stable"
        time.sleep(0.2)


def source_in(archive: Archive) -> SourceSeries:
    datasets = make_series()
    archive.store(datasets)
    return assemble(archive.fetch(datasets[0].SeriesInstanceUID))


def test_a_stored_series_comes_back_with_header_and_voxels(archive) -> None:
    datasets = make_series()
    archive.store(datasets)
    uid = datasets[0].SeriesInstanceUID

    header = archive.header(uid)
    assert (header.study_uid, header.series_uid) == (datasets[0].StudyInstanceUID, uid)
    assert (header.modality, header.description, header.patient_id) == ("CT", "dünn", "ARCHIVE-1")
    assert (header.instances, header.institution, header.date) == (4, "House", "20260101")
    assert header.manufacturer == "radiology_transunet"
    assert header in archive.series()

    fetched, given = assemble(archive.fetch(uid)), assemble(datasets)
    np.testing.assert_array_equal(fetched.volume.array, given.volume.array)
    assert fetched.geometry.is_close(given.geometry, 1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_instances_come_in_the_syntax_they_are_stored_in(archive, syntax) -> None:
    datasets = make_series()
    expected = assemble(datasets).volume.array
    if syntax != ExplicitVRLittleEndian:
        for dataset in datasets:
            plugin = "pydicom" if syntax == RLELossless else ""
            dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    archive.store([encode(dataset) for dataset in datasets])

    fetched = archive.fetch(datasets[0].SeriesInstanceUID)

    assert {dataset.file_meta.TransferSyntaxUID for dataset in fetched} == {syntax}
    np.testing.assert_array_equal(assemble(fetched).volume.array, expected)


def test_storing_twice_keeps_one_copy(archive) -> None:
    datasets = make_series()
    archive.store(datasets)
    archive.store(datasets)
    assert archive.header(datasets[0].SeriesInstanceUID).instances == 4


def test_a_series_of_many_batches_is_stored_whole(archive) -> None:
    datasets = make_series(slices=70)
    archive.store(datasets)
    assert len(archive.fetch(datasets[0].SeriesInstanceUID)) == 70


def test_the_feed_tells_of_a_complete_series_once(archive) -> None:
    start = archive.changes(0, limit=100_000).last
    datasets = make_series()
    archive.store(datasets)
    uid = datasets[0].SeriesInstanceUID
    wait_stable(archive, uid, start)
    assert stable_uids(archive, start).count(uid) == 1
    assert stable_uids(archive, archive.changes(start, limit=100_000).last) == []


def test_a_deleted_series_leaves_index_and_feed(archive) -> None:
    datasets = make_series()
    uid, instance = datasets[0].SeriesInstanceUID, datasets[0].SOPInstanceUID
    archive.store(datasets)
    assert archive.has_instance(instance)
    wait_stable(archive, uid)

    archive.delete_series(uid)
    archive.delete_series(uid)  # a repeated deletion changes nothing

    assert not archive.has_instance(instance)
    assert uid not in [header.series_uid for header in archive.series()]
    assert uid not in stable_uids(archive, 0)
    with pytest.raises(NotFound, match=uid):
        archive.fetch(uid)


def test_wildcards_are_no_uids(archive) -> None:
    archive.store(make_series())
    with pytest.raises(NotFound):
        archive.header("*")
    with pytest.raises(InvalidInput, match="Wildcards are not allowed"):
        archive.has_instance("*")


def test_what_is_no_instance_is_refused_and_named(archive) -> None:
    with pytest.raises(InvalidInput, match="a DICOM file is needed, got 7 bytes"):
        archive.store([b"nothing"])
    datasets = make_series(2)
    nameless = decode(encode(datasets[1]))
    del nameless.SOPInstanceUID
    with pytest.raises(InvalidInput, match=r"stored 1 of 2 instances and refused \(no SOPInstanceUID\)"):
        archive.store([datasets[0], nameless])


def test_threads_share_one_archive(archive) -> None:
    series = [make_series(3) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(archive.store, series))
        counts = list(pool.map(lambda datasets: len(archive.fetch(datasets[0].SeriesInstanceUID)), series))
    assert counts == [3] * 6


def test_a_segmentation_goes_there_and_back(archive) -> None:
    source = source_in(archive)
    array = np.zeros(source.geometry.shape, np.uint8)
    array[1:3, 2:5, 1:4] = 1
    uid = new_uid()
    origin = SegOrigin("AUTOMATIC", "radiology_transunet", "test", "1", "draft")
    seg = write_seg(Mask(array, source.geometry, SCHEMA), source, origin, uid)
    archive.store([seg])

    assert archive.has_instance(uid)
    back = read_seg(archive.fetch(seg.SeriesInstanceUID)[0], source, SCHEMA)
    np.testing.assert_array_equal(back.array, array)


def test_check_names_version_and_refused_account(archive, orthanc) -> None:
    assert archive.check().version.count(".") == 2
    config = ArchiveConfig(orthanc.dicomweb_url, orthanc.username, "wrong-secret", 5)
    for call in (Archive(config).check, Archive(config).series):
        with pytest.raises(ArchiveUnavailable, match=r"refuses user 'tester' \(HTTP 401\)") as caught:
            call()
        assert "wrong-secret" not in str(caught.value)
    assert "wrong-secret" not in repr(config)


def test_an_address_without_dicomweb_is_told_apart(orthanc, archive) -> None:
    config = ArchiveConfig(f"{orthanc.url}/other", orthanc.username, orthanc.password, 5)
    with pytest.raises(ArchiveUnavailable, match="is Orthanc's plug-in loaded"):
        Archive(config).check()


def test_something_else_that_answers_is_told_apart(tmp_path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    (tmp_path / "system").write_text("<html>hello</html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        archive = Archive(ArchiveConfig(f"http://127.0.0.1:{server.server_port}/dicom-web", "", "", 5))
        with pytest.raises(ArchiveUnavailable, match="/system is no Orthanc"):
            archive.check()
        with pytest.raises(NotFound, match="HTTP 404"):
            archive.changes(0)
        server.shutdown()
        thread.join()


def test_an_archive_that_is_away_is_unavailable_and_recovers(tmp_path) -> None:
    port = free_port()
    archive = Archive(ArchiveConfig(f"http://127.0.0.1:{port}/dicom-web", "u", "p", 5))
    datasets = make_series(2)
    uid = datasets[0].SeriesInstanceUID
    calls = (archive.check, archive.series, lambda: archive.changes(0), lambda: archive.fetch(uid))
    for call in (*calls, lambda: archive.store(datasets), lambda: archive.has_instance(uid)):
        with pytest.raises(ArchiveUnavailable, match=r"does not answer: .*refused"):
            call()

    with start_orthanc(tmp_path, port, "u", "p"):
        archive.store(datasets)
        assert len(archive.fetch(uid)) == 2
    with pytest.raises(ArchiveUnavailable):
        archive.check()

    with start_orthanc(tmp_path, port, "u", "p"):
        assert len(archive.fetch(uid)) == 2  # the folder keeps what was stored


def test_a_silent_archive_is_given_up_after_the_timeout(orthanc) -> None:
    archive = Archive(ArchiveConfig(orthanc.dicomweb_url, orthanc.username, orthanc.password, 0.5))
    archive.check()
    orthanc.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(ArchiveUnavailable, match="does not answer"):
            archive.check()
        assert time.monotonic() - started < 5
    finally:
        orthanc.process.send_signal(signal.SIGCONT)


def test_the_configuration_is_private_and_closed(orthanc) -> None:
    path = orthanc.folder / "orthanc.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert '"RemoteAccessAllowed": false' in path.read_text()
    assert '"DicomServerEnabled": false' in path.read_text()
    assert orthanc.password not in repr(orthanc)


def test_a_folder_serves_one_orthanc_at_a_time(orthanc, monkeypatch) -> None:
    monkeypatch.setattr("lib.cli.orthanc_process.LOCK_TIMEOUT_S", 0.2)
    with pytest.raises(Conflict, match="another Orthanc still uses"):
        start_orthanc(orthanc.folder, free_port(), "u", "p")


def test_a_taken_port_is_told(orthanc, tmp_path) -> None:
    port = int(orthanc.url.rsplit(":", 1)[1])
    with pytest.raises(Conflict, match=f"free port {port}, but it is taken"):
        start_orthanc(tmp_path, port, "u", "p")


def test_an_orthanc_that_cannot_start_shows_its_log(tmp_path) -> None:
    with pytest.raises(ArchiveUnavailable, match="Orthanc ended at once with status") as caught:
        start_orthanc(tmp_path, free_port(), "u", "p", extra={"StorageDirectory": "/proc/nowhere"})
    assert "/proc/nowhere" in str(caught.value)


def test_missing_parts_are_named_with_the_command(tmp_path, monkeypatch) -> None:
    with pytest.raises(ArchiveUnavailable, match=r"no libOrthancDicomWeb.so in .*apt-get install .*orthanc-dicomweb"):
        find_plugin([tmp_path])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lib.cli.orthanc_process.BINARY_FOLDERS", ())
    with pytest.raises(ArchiveUnavailable, match=r"no program named Orthanc .*apt-get install"):
        start_orthanc(tmp_path, free_port(), "u", "p")


def test_orthanc_dies_with_the_process_that_started_it(tmp_path) -> None:
    port = free_port()
    code = (
        "import os, pathlib, signal\n"
        "from lib.cli.orthanc_process import start_orthanc\n"
        f"orthanc = start_orthanc(pathlib.Path({str(tmp_path)!r}), {port}, 'u', 'p')\n"
        "print(orthanc.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    app = Path(__file__).parents[2] / "apps" / "radiology_transunet"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(app)}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    with start_orthanc(tmp_path, port, "u", "p") as next_one:  # waits for the folder and its port
        assert next_one.process.pid != pid
        assert not _runs_orthanc(pid)


def _runs_orthanc(pid: int) -> bool:
    """Whether that process still runs; one that nobody has waited for yet is dead."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "Name:\tOrthanc" in status and "State:\tZ" not in status


def test_stopping_twice_is_harmless(tmp_path) -> None:
    running = start_orthanc(tmp_path, free_port(), "u", "p")
    assert isinstance(running, OrthancProcess)
    running.stop()
    running.stop()
    assert not running.is_running


def test_the_address_of_an_archive_is_checked() -> None:
    good = ArchiveConfig("https://pacs.example/orthanc/dicom-web/", "", "", 5)
    assert (good.url, good.rest_url) == ("https://pacs.example/orthanc/dicom-web", "https://pacs.example/orthanc")
    for change in ({"url": "pacs:8042"}, {"url": "http://u:p@pacs/dicom-web"}, {"timeout_s": 0}):
        with pytest.raises(InvalidInput, match=r"archive\."):
            replace(good, **change)
