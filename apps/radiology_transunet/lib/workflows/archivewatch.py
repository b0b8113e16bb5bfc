"""Whether the archive answers, as the threads of one worker know it.

The loop that follows the archive asks it every few seconds and says what it found; a job that meets an absent archive
says so at once. While it is away nobody takes a job that needs it, and the log hears of it once.
"""

import logging
import threading

from lib.core.errors import ArchiveUnavailable

logger = logging.getLogger(__name__)


class ArchiveWatch:
    """What is known of the archive; nothing at first, so that no job is taken before it has answered once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: bool | None = None

    @property
    def answers(self) -> bool:
        """Whether the archive answered when it was asked last."""
        return self._answers is True

    def lost(self, error: ArchiveUnavailable) -> None:
        """The archive did not answer."""
        with self._lock:
            if self._answers is not False:
                logger.warning("drafts and checks wait for the archive: %s", error)
            self._answers = False

    def found(self) -> None:
        """The archive answered."""
        with self._lock:
            if self._answers is False:
                logger.info("the archive answers: drafts and checks go on")
            self._answers = True
