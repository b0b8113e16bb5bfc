"""Patients as keyed pseudonyms, and the split that a keyed hash gives each of them.

Without the key nobody can find out by trying which patient a pseudonym stands for, nor who is in
which split. The functions are pure: one key, one patient, one answer, for ever.
"""

import hmac
import math
import os
import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from lib.core.errors import InvalidInput, InvalidSettings

PSEUDONYM_CHARACTERS = 32
KEY_BYTES = 32
SHARE_TOLERANCE = 1e-6


def pseudonym(patient_id: str, key: bytes) -> str:
    """The pseudonym of a patient: 32 hexadecimal digits of HMAC-SHA256 (RFC 2104).

    Blanks around the id do not count (DICOM pads with them).

    Raises:
        InvalidInput: an empty patient id; all nameless patients would become one.
        InvalidSettings: an empty key.
    """
    stripped = patient_id.strip()
    if not stripped:
        raise InvalidInput("a pseudonym needs a patient id, got an empty one; use another id of the study")
    return _digest(key, "patient", stripped).hex()[:PSEUDONYM_CHARACTERS]


def split_of(pseudonym: str, key: bytes, shares: Mapping[str, float]) -> str:
    """The split of a patient, drawn by a keyed hash with the given shares.

    The order of the mapping does not matter.

    Args:
        pseudonym: of the patient.
        key: the secret.
        shares: share of the patients by name of the split; together 1.

    Raises:
        InvalidSettings: shares that are no shares, an empty key.
    """
    check_shares(shares)
    drawn = int.from_bytes(_digest(key, "split", pseudonym)[:8], "big") / 2**64
    names = sorted(name for name in shares if shares[name] > 0)
    upper = 0.0
    for name in names:
        upper += shares[name]
        if drawn < upper:
            return name
    return names[-1]


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise InvalidSettings unless the shares are named, not negative and sum to 1."""
    total = math.fsum(shares.values())
    if not all(name.strip() for name in shares) or any(share < 0 for share in shares.values()):
        raise InvalidSettings(f"each split needs a name and a share from 0 to 1, got {dict(shares)}")
    if not abs(total - 1) <= SHARE_TOLERANCE:
        raise InvalidSettings(f"the shares of the splits must sum to 1, got {total:g} from {dict(shares)}")


def key_digest(key: bytes) -> str:
    """What tells keys apart without giving them away: 64 hexadecimal digits of HMAC-SHA256.

    Raises:
        InvalidSettings: an empty key.
    """
    return _digest(key, "key", "").hex()


def read_or_make_key(path: Path) -> bytes:
    """The key in that file; a new random one, readable by the owner alone, when there is none.

    Two processes that make it at once end with the same key.

    Raises:
        InvalidSettings: a file that holds no key.
    """
    if not path.exists():
        _publish_once(path, secrets.token_hex(KEY_BYTES))
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError as error:
        raise InvalidSettings(f"{path} must hold a key in hexadecimal digits, got something else") from error
    if len(key) < KEY_BYTES:
        raise InvalidSettings(f"{path} must hold a key of {KEY_BYTES} bytes, got {len(key)}")
    return key


def _publish_once(path: Path, text: str) -> None:
    """Write the file unless somebody else was faster; it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(beside, path)  # fails when the target exists, so the first one wins
    except FileExistsError:
        return
    finally:
        beside.unlink()


def _digest(key: bytes, purpose: str, text: str) -> bytes:
    if not key:
        raise InvalidSettings("the pseudonym key is empty; set ledger.pseudonym_key")
    return hmac.new(key, f"{purpose}\0{text}".encode(), sha256).digest()
