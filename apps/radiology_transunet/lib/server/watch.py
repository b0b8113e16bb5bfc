"""Whether the archive answers, asked in the background, so that no request waits for an archive that hangs."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lib.core.errors import LabelError
from lib.dicom.config import ArchiveConfig
from lib.dicom.orthanc import Archive

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 5.0
ANSWER_TIMEOUT_S = 3.0
"""For one answer; an archive that takes longer is as good as away for people who wait."""

UNKNOWN = "not asked yet"


class ArchiveWatch:
    """Asks the archive in one thread of its own and keeps the last answer.

    Args:
        archive: whom to ask; its own timeout should be short.
        every_s: pause between two questions, in seconds.
    """

    def __init__(self, archive: Archive, every_s: float = CHECK_EVERY_S) -> None:
        self._archive = archive
        self._every_s = every_s
        self._stopping = threading.Event()
        self._state: Mapping[str, Any] = {"url": archive.url, "available": False, "error": UNKNOWN}

    def state(self) -> Mapping[str, Any]:
        """Url, whether it was available when last asked and, if not, why. Returns at once."""
        return self._state

    def start(self) -> None:
        """Ask from now on."""
        threading.Thread(target=self._watch, name="archive-watch", daemon=True).start()

    def stop(self) -> None:
        """Ask no more; a question that waits for its answer is left alone."""
        self._stopping.set()

    def ask(self) -> None:
        """Ask once and keep the answer."""
        url = self._archive.url
        try:
            self._state = {"url": url, "available": True, "version": self._archive.check().version}
        except LabelError as error:
            self._state = {"url": url, "available": False, "error": str(error)}
        except Exception as error:  # the thread must live on, whatever answers at that address
            logger.exception("looking at the archive failed")
            self._state = {"url": url, "available": False, "error": f"unexpected answer: {type(error).__name__}"}

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self.ask()
            self._stopping.wait(self._every_s)


def impatient(config: ArchiveConfig) -> Archive:
    """The archive with a timeout that suits a look at it."""
    return Archive(replace(config, timeout_s=min(config.timeout_s, ANSWER_TIMEOUT_S)))
