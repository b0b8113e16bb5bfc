"""The archive: an Orthanc spoken to over DICOMweb, and over its REST API where DICOMweb has no word.

Instances come in the transfer syntax they are stored in: Orthanc transcodes a plain retrieval, and
our own decoding must see what the modality sent. Errors of the network and of the
archive become ArchiveUnavailable, NotFound or InvalidInput here, and nowhere else.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from lib.core.errors import ArchiveUnavailable, InvalidInput, NotFound, UnreadablePixels
from lib.dicom.answers import QIDO_FIELDS, ArchiveInfo, Change, ChangePage, SeriesHeader, text_of
from lib.dicom.config import ArchiveConfig
from lib.dicom.files import decode, encode

__all__ = ["Archive", "ArchiveInfo", "Change", "ChangePage", "SeriesHeader"]

logger = logging.getLogger(__name__)
logging.getLogger("retrying").setLevel(logging.CRITICAL)  # under dicomweb_client; logs each error that is raised here

STORED_SYNTAX = (("application/dicom", "*"),)
STOW_BATCH = 32
"""Instances in one STOW request: bounds the memory that its message takes."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Failure reasons of STOW that say the archive is full rather than the instance wrong (PS3.4 Table B.2-1)."""

REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


class Archive:
    """One Orthanc. Safe to share among threads: each thread has its own connections.

    Opens nothing at construction; every method may raise ArchiveUnavailable. Proxies of the
    environment are not used: an archive is reached directly.

    Args:
        config: address and account.
    """

    def __init__(self, config: ArchiveConfig) -> None:
        self._config = config
        self._local = threading.local()

    @property
    def url(self) -> str:
        """The DICOMweb root."""
        return self._config.url

    def check(self) -> ArchiveInfo:
        """Version and database of the archive; also proves that account and DICOMweb plug-in work."""
        system = self._json("GET", "/system")
        try:
            with self._translated(self.url):
                self._web.search_for_studies(limit=1)
        except NotFound as error:
            raise ArchiveUnavailable(f"no DICOMweb at {self.url}; is Orthanc's plug-in loaded?") from error
        return ArchiveInfo(str(system.get("Version", "")), str(system.get("DatabaseServerIdentifier", "")))

    def changes(self, since: int, limit: int = 200) -> ChangePage:
        """Events after number `since`, at most `limit`, with the UIDs of changed series."""
        page = self._json("GET", "/changes", params={"since": since, "limit": limit})
        wanted = {change["ID"] for change in page["Changes"] if change["ResourceType"] == "Series"}
        uids = {orthanc_id: self._series_uid(orthanc_id) for orthanc_id in sorted(wanted)}
        changes = tuple(
            Change(int(change["Seq"]), str(change["ChangeType"]), uids.get(change["ID"]), str(change["ID"]))
            for change in page["Changes"]
        )
        return ChangePage(changes, int(page["Last"]), bool(page["Done"]))

    def series(self) -> list[SeriesHeader]:
        """Headers of all series, in two requests to Orthanc's index (QIDO-RS takes 15 times as long)."""
        series = self._json("GET", "/series", params={"expand": ""})
        studies = {study["ID"]: study for study in self._json("GET", "/studies", params={"expand": ""})}
        return [
            SeriesHeader.from_orthanc(item, studies[item["ParentStudy"]])
            for item in series
            if item["ParentStudy"] in studies  # else it was removed between both requests
        ]

    def header(self, series_uid: str) -> SeriesHeader:
        """Header of one series.

        Raises:
            NotFound: the archive does not hold it.
        """
        with self._translated(self.url, series_uid):
            found = self._web.search_for_series(
                fields=list(QIDO_FIELDS), search_filters={"SeriesInstanceUID": series_uid}
            )
        headers = [header for header in map(SeriesHeader.from_qido, found) if header.series_uid == series_uid]
        if not headers:  # QIDO reads * and ? as wildcards, so what came is compared again
            raise NotFound(f"the archive {self.url} holds no series {series_uid}")
        return headers[0]

    def fetch(self, series_uid: str) -> list[Dataset]:
        """All instances of a series with pixel data, in their stored transfer syntax, in no special order.

        Raises:
            NotFound: the archive does not hold the series.
            UnreadablePixels: it holds something that is no DICOM file.
        """
        header = self.header(series_uid)
        with self._translated(self.url, series_uid):
            instances = list(self._web.iter_series(header.study_uid, series_uid, media_types=STORED_SYNTAX))
        if len(instances) < header.instances:
            raise ArchiveUnavailable(
                f"the archive {self.url} announced {header.instances} instances of series {series_uid} but sent "
                f"{len(instances)}; try again"
            )
        return instances

    def store(self, instances: Sequence[Dataset | bytes]) -> None:
        """Store instances (STOW-RS). One that the archive already holds counts as stored and stays as it is.

        Args:
            instances: data sets with file meta information, or encoded DICOM files.

        Raises:
            InvalidInput: something that is no DICOM instance, or that the archive refuses; names which and why.
        """
        datasets = [_file(instance) for instance in instances]
        for start in range(0, len(datasets), STOW_BATCH):
            self._stow(datasets[start : start + STOW_BATCH])

    def has_instance(self, sop_instance_uid: str) -> bool:
        """Whether the archive holds that SOP instance."""
        return bool(self._lookup(sop_instance_uid, "Instance"))

    def delete_series(self, series_uid: str) -> None:
        """Remove a series with all its instances; one that is not there counts as removed."""
        for orthanc_id in self._lookup(series_uid, "Series"):
            try:
                self._rest("DELETE", f"/series/{orthanc_id}")
            except NotFound:
                logger.info("series %s was removed by somebody else", series_uid)

    def _stow(self, batch: Sequence[Dataset]) -> None:
        try:
            with self._translated(self.url):
                answer = self._web.store_instances(batch)
        except _RefusedRequest as refused:
            answer = refused.answer()
        stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
        missing = [uid for uid in (text_of(dataset, "SOPInstanceUID") for dataset in batch) if uid not in stored]
        if not missing:
            return
        reasons = [int(item.get("FailureReason") or 0) for item in answer.get("FailedSOPSequence") or ()]
        words = ", ".join(f"0x{reason:04X}" for reason in sorted(set(reasons))) or "none given"
        message = (
            f"the archive {self.url} stored {len(batch) - len(missing)} of {len(batch)} instances and refused "
            f"{', '.join(uid or '(no SOPInstanceUID)' for uid in missing[:3])}; failure reason: {words}"
        )
        if any(reason in OUT_OF_RESOURCES for reason in reasons):
            raise ArchiveUnavailable(message)
        raise InvalidInput(message)

    def _series_uid(self, orthanc_id: str) -> str | None:
        """SeriesInstanceUID of one of Orthanc's ids, None when it has gone."""
        try:
            found = self._json("GET", f"/series/{orthanc_id}")
        except NotFound:
            return None
        return str(found["MainDicomTags"]["SeriesInstanceUID"])

    def _lookup(self, uid: str, level: str) -> list[str]:
        """Orthanc's ids of the resources of a level that carry a UID."""
        found = self._json("POST", "/tools/lookup", data=uid.encode())
        return [str(item["ID"]) for item in found if item["Type"] == level]

    def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self._rest(method, path, **kwargs)
        with self._translated(self._config.rest_url + path):
            return response.json()

    def _rest(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        url = self._config.rest_url + path
        with self._translated(url):
            response: requests.Response = self._session.request(method, url, timeout=self._config.timeout_s, **kwargs)
            response.raise_for_status()
            return response

    @property
    def _session(self) -> requests.Session:
        return self._connection()[0]

    @property
    def _web(self) -> DICOMwebClient:
        return self._connection()[1]

    def _connection(self) -> tuple[requests.Session, DICOMwebClient]:
        """This thread's own session and the DICOMweb client on it."""
        connection: tuple[requests.Session, DICOMwebClient] | None = getattr(self._local, "connection", None)
        if connection is None:
            session = requests.Session()
            session.trust_env = False
            if self._config.username:
                session.auth = (self._config.username, self._config.password)
            web = DICOMwebClient(self._config.url, session=session, timeout=self._config.timeout_s)
            web.set_http_retry_params(retry=False)  # a repeated POST would send an emptied body
            connection = self._local.connection = (session, web)
        return connection

    @contextmanager
    def _translated(self, url: str, what: str = "") -> Iterator[None]:
        """Foreign errors of one request as ours."""
        try:
            yield
        except requests.HTTPError as error:
            raise self._http_error(error, url, what) from error
        except requests.JSONDecodeError as error:
            raise ArchiveUnavailable(f"{url} is no Orthanc: it does not answer in JSON") from error
        except requests.RequestException as error:
            raise ArchiveUnavailable(f"the archive {url} does not answer: {_reason(error)}") from error
        except InvalidDicomError as error:
            raise UnreadablePixels(f"the archive {url} sent an instance that is no DICOM file: {error}") from error
        except (ValueError, KeyError) as error:
            raise ArchiveUnavailable(f"the archive {url} gave an answer that is not understood: {error}") from error

    def _http_error(self, error: requests.HTTPError, url: str, what: str) -> Exception:
        response = error.response
        if response is None:
            return ArchiveUnavailable(f"the archive {url} broke off its answer: {error}")
        status = response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return ArchiveUnavailable(
                f"the archive {url} refuses user {self._config.username!r} (HTTP {status}); set archive.username and "
                "TRANSUNET_ARCHIVE__PASSWORD to a registered user of Orthanc"
            )
        if status == HTTPStatus.NOT_FOUND:
            return NotFound(f"the archive {url} does not hold {what or 'what was asked for'} (HTTP 404)")
        if status in REFUSED:
            return _RefusedRequest(response, url)
        return ArchiveUnavailable(f"the archive {url} answered HTTP {status}: {response.text[:200]}")


class _RefusedRequest(InvalidInput):
    """The archive calls a request wrong; its answer may name the instances."""

    def __init__(self, response: requests.Response, url: str) -> None:
        super().__init__(f"the archive {url} refuses (HTTP {response.status_code}): {response.text[:200]}")
        self._response = response

    def answer(self) -> Dataset:
        """The answer as a data set.

        Raises:
            InvalidInput: this error, when the answer is none.
        """
        try:
            return Dataset.from_json(self._response.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self from error


def _file(instance: Dataset | bytes) -> Dataset:
    """The instance as a data set that is written as a DICOM file: Orthanc also keeps, and returns, what is none."""
    if isinstance(instance, bytes):
        return decode(instance)
    return instance if getattr(instance, "preamble", None) else decode(encode(instance))


def _reason(error: requests.RequestException) -> str:
    """The innermost cause of an error of requests, in one line."""
    inner: BaseException = error
    while inner.__cause__ is not None or inner.__context__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return f"{type(error).__name__}: {inner}"
