"""Options of the HTTP server."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lib.core.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the server listens and what it allows.

    Attributes:
        host: address to listen on; anything but loopback needs a password.
        port: TCP port, 0 picks a free one.
        allowed_hosts: names besides the loopback ones that requests may carry in their Host header.
        password: one shared secret for HTTP Basic (any user name: it becomes the author) and Bearer; "" = no login.
        threads: how many requests may work at once.
        max_waiting: how many more may wait for a thread before the server answers 503.
        max_upload_mb: largest accepted request body, in MiB.
        session_expiry_s: seconds without use after which an uploaded image is forgotten.
        public_url: how annotators reach the server, for links; its host is always allowed; "" = http://host:port.
        viewer: folder of the unpacked OHIF viewer; "" = ohif/ in the state folder.
    """

    host: str
    port: int
    allowed_hosts: tuple[str, ...]
    password: str = field(repr=False)
    threads: int
    max_waiting: int
    max_upload_mb: int
    session_expiry_s: float
    public_url: str
    viewer: str

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidSettings(f"server.port must be 0 to 65535, got {self.port}")
        for name in ("threads", "max_waiting", "max_upload_mb", "session_expiry_s"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"server.{name} must be positive, got {getattr(self, name)}")

        if self.public_url and not (self.public_host and self.public_url.startswith(("http://", "https://"))):
            raise InvalidSettings(f"server.public_url must be like https://name:port, got {self.public_url!r}")

    @property
    def public_host(self) -> str:
        """The host in `public_url`, in lower case; "" when there is none."""
        return urlsplit(self.public_url).hostname or ""

    def viewer_folder(self, var: Path) -> Path:
        """Where the viewer's files lie.

        Args:
            var: the state folder.
        """
        return Path(self.viewer) if self.viewer else var / "ohif"

    @property
    def url(self) -> str:
        """Where people reach the server, without a slash at the end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")
