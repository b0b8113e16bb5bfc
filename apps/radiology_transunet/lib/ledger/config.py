"""Where the ledger lives and how patients become pseudonyms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import InvalidSettings
from lib.ledger.pseudonym import check_shares, read_or_make_key

DATABASE_FILE = "ledger.db"
KEY_FILE = "pseudonym.key"


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Options of the ledger.

    Attributes:
        url: database as a SQLAlchemy URL, sqlite or postgresql; "" is a SQLite file in the state folder.
        pseudonym_key: secret that pseudonyms and splits are made with; "" is a key file in the state folder.
        splits: share of the patients by name of the split; together 1.

    Raises:
        InvalidSettings: shares that are no shares.
    """

    url: str = field(repr=False)  # may hold a password
    pseudonym_key: str = field(repr=False)
    splits: Mapping[str, float]

    def __post_init__(self) -> None:
        check_shares(self.splits)

    def resolved_url(self, var: Path) -> str:
        """The URL, or the one of the SQLite file in the state folder `var`."""
        return self.url or f"sqlite:///{(var / DATABASE_FILE).resolve()}"

    def key(self, var: Path) -> bytes:
        """The secret key; without one in the options the key file in `var`, made on first use.

        Raises:
            InvalidSettings: a key of less than 16 bytes.
        """
        if not self.pseudonym_key:
            return read_or_make_key(var / KEY_FILE)
        key = self.pseudonym_key.encode()
        if len(key) < 16:
            raise InvalidSettings(f"ledger.pseudonym_key needs at least 16 bytes, got {len(key)}")
        return key
