"""Where the DICOM archive is and how to talk to it."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lib.core.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """Connection to an Orthanc with its DICOMweb plug-in.

    Attributes:
        url: root of DICOMweb, for example http://127.0.0.1:8042/dicom-web; Orthanc's REST API is
            expected one path element above it.
        username: a registered user of Orthanc, or "" for an archive without accounts.
        password: the user's password; only from the environment, never printed.
        timeout_s: the longest silence of the archive that is waited for, in seconds.

    Raises:
        InvalidSettings: an address that is not http(s)://host/path, credentials inside the address,
            a timeout that is not positive.
    """

    url: str
    username: str
    password: str = field(repr=False)
    timeout_s: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise InvalidSettings("archive.url must not carry credentials; set archive.username and archive.password")
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise InvalidSettings(
                f"archive.url must be the DICOMweb root, for example http://127.0.0.1:8042/dicom-web, got {self.url!r}"
            )
        if not self.timeout_s > 0:
            raise InvalidSettings(f"archive.timeout_s must be above 0 seconds, got {self.timeout_s}")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def rest_url(self) -> str:
        """Root of Orthanc's own REST API: the DICOMweb root without its last path element."""
        return self.url.rsplit("/", 1)[0]
