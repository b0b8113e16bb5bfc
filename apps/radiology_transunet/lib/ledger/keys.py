"""The secret key that a ledger's pseudonyms and splits were made with, known by its digest."""

import hmac

import sqlalchemy as sa

from lib.core.errors import InvalidSettings
from lib.ledger import tables
from lib.ledger.book import Book, insert_new
from lib.ledger.pseudonym import key_digest

T = tables.keys
NAME = "pseudonym"


class Keys(Book):
    """`ledger.keys`."""

    __slots__ = ()

    def require(self, key: bytes) -> None:
        """Go on only with the key of this ledger; the first one that asks becomes it.

        With another key every patient would be a new one, in a split drawn anew: what was learned from would judge.

        Raises:
            InvalidSettings: another key.
        """
        digest, known = key_digest(key), self._digest()
        if known is None:
            with self._write() as connection:
                insert_new(connection, T, {"name": NAME, "digest": digest, "created_at": self.clock()})
            known = self._digest() or ""
        if not hmac.compare_digest(digest, known):
            raise InvalidSettings(
                "the pseudonym key must be the one that this ledger was made with, got another one: all patients would "
                "get new pseudonyms and splits. Bring back pseudonym.key of the state folder, on "
                "another machine a copy of it, or TRANSUNET_LEDGER__PSEUDONYM_KEY as it was (the text of that file in "
                "the variable is another key). Without it start an empty ledger: it reads the labels from the archive"
            )

    def require_if_known(self, key: bytes) -> None:
        """Like `require`, for whoever only looks: a ledger without a key stays without one."""
        if self._digest() is not None:
            self.require(key)

    def _digest(self) -> str | None:
        with self._read() as connection:
            found: str | None = connection.execute(sa.select(T.c.digest).where(T.c.name == NAME)).scalar()
        return found
