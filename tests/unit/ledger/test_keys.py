"""A ledger goes on with its own key alone."""

import pytest

from lib.core.errors import InvalidSettings
from lib.ledger.ledger import Ledger
from lib.ledger.pseudonym import key_digest

OURS, OTHER = b"k" * 32, b"o" * 32


def test_the_first_key_stays_the_key_of_the_ledger(empty_url: str) -> None:
    ledger = Ledger(empty_url)
    ledger.upgrade()
    ledger.keys.require_if_known(OTHER)  # looks, and keeps nothing
    ledger.keys.require(OURS)
    ledger.keys.require(OURS)
    with pytest.raises(InvalidSettings, match="must be the one"):
        ledger.keys.require_if_known(OTHER)
    again = Ledger(empty_url)
    with pytest.raises(InvalidSettings, match=r"must be the one that this ledger was made with.*Bring back"):
        again.keys.require(OTHER)
    again.keys.require(OURS)
    for opened in (ledger, again):
        opened.close()


def test_a_digest_tells_keys_apart_and_holds_nothing_of_them() -> None:
    assert key_digest(OURS) == key_digest(OURS) != key_digest(OTHER)
    assert len(key_digest(OURS)) == 64
    assert OURS.hex()[:8] not in key_digest(OURS)
    with pytest.raises(InvalidSettings, match="empty"):
        key_digest(b"")
