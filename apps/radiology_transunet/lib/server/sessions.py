"""Images that a client uploads once and refers to by a session id for some time (3D Slicer does)."""

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lib.core.errors import InvalidInput, NotFound
from lib.server.volumefiles import suffix_of

ID = re.compile(r"[0-9a-f]{32}")
RECORD = "session.json"
IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Session:
    """One uploaded image.

    Attributes:
        id: 32 hexadecimal digits.
        name: of the uploaded file, for people alone.
        image: path of the stored file.
        user: who uploaded it.
        created_s: UTC epoch seconds.
        used_s: UTC epoch seconds of the last use.
        expiry_s: seconds without use after which it is forgotten.
    """

    id: str
    name: str
    image: Path
    user: str
    created_s: float
    used_s: float
    expiry_s: float

    def public(self) -> dict[str, Any]:
        """What clients see, in the names of MONAI Label; the server's paths stay here."""
        return {
            "name": self.id,
            "path": "",
            "image": self.name,
            "meta": {},
            "create_ts": int(self.created_s),
            "last_access_ts": int(self.used_s),
            "expiry": int(self.expiry_s),
        }


class Sessions:
    """Sessions in a folder; they outlive a restart of the server.

    Args:
        folder: made when missing.
        expiry_s: longest time without use, in seconds.
        clock: gives UTC epoch seconds.
    """

    def __init__(self, folder: Path, expiry_s: float, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._expiry_s = expiry_s
        self._clock = clock

    def add(self, source: Path, name: str, user: str, expiry_s: float = 0.0) -> Session:
        """Keep a copy of an uploaded file under a new id.

        Raises:
            InvalidInput: a file that is no image volume by its name.
        """
        self.forget_expired()
        now = self._clock()
        identifier = uuid.uuid4().hex
        folder = self._folder / identifier
        folder.mkdir(parents=True)
        image = folder / f"{IMAGE}{suffix_of(name)}"
        shutil.copyfile(source, image)
        expiry_s = min(expiry_s, self._expiry_s) if expiry_s > 0 else self._expiry_s
        session = Session(identifier, Path(name).name, image, user, now, now, expiry_s)
        self._write(session)
        return session

    def get(self, identifier: str) -> Session:
        """A session, and the note that it was used now.

        Raises:
            InvalidInput: no id of a session.
            NotFound: unknown or expired.
        """
        session = self._read(self._home(identifier))
        if session is None or self._is_expired(session):
            raise NotFound(f"no session {identifier}; it expires {self._expiry_s:.0f} s after its last use")
        session = replace(session, used_s=self._clock())
        self._write(session)
        return session

    def remove(self, identifier: str) -> None:
        """Forget a session and its image."""
        shutil.rmtree(self._home(identifier), ignore_errors=True)

    def forget_expired(self) -> None:
        """Remove all images that nobody used for their time."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            session = self._read(folder)
            if session is not None and self._is_expired(session):
                shutil.rmtree(folder, ignore_errors=True)

    def _is_expired(self, session: Session) -> bool:
        return session.used_s + session.expiry_s < self._clock()

    def _home(self, identifier: str) -> Path:
        compact = identifier.replace("-", "")
        if not ID.fullmatch(compact):
            raise InvalidInput(f"a session id has 32 hexadecimal digits, got {identifier[:80]!r}")
        return self._folder / compact

    def _read(self, folder: Path) -> Session | None:
        try:
            fields = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Session(**{**fields, "image": folder / fields["image"]})

    def _write(self, session: Session) -> None:
        folder = self._folder / session.id
        draft = folder / f".{RECORD}.{uuid.uuid4().hex}"
        draft.write_text(json.dumps({**asdict(session), "image": session.image.name}), encoding="utf-8")
        os.replace(draft, folder / RECORD)
