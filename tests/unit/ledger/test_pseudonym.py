"""Patients become pseudonyms, and fall into splits, by a key alone."""

import hashlib
import hmac
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import InvalidInput, InvalidSettings
from lib.ledger.config import LedgerConfig
from lib.ledger.pseudonym import pseudonym, read_or_make_key, split_of

KEY = b"0123456789abcdef0123456789abcdef"
SHARES = {"pool": 0.7, "calibration": 0.15, "promotion": 0.15}
SPLITS = ["pool", "pool", "pool", "pool", "pool", "promotion", "pool", "pool", "pool", "promotion", "pool", "promotion"]


def test_known_vectors_stay_what_they_are() -> None:
    """Another answer would give every patient another pseudonym and another split after an update."""
    expected = hmac.new(KEY, b"patient\0TCGA-17", hashlib.sha256).hexdigest()[:32]
    assert pseudonym("TCGA-17", KEY) == expected == "5a63f5eed55d43c45ec7ecabe2ec2403"
    assert [split_of(pseudonym(f"p{i}", KEY), KEY, SHARES) for i in range(12)] == SPLITS


@given(st.text(min_size=1).filter(str.strip))
def test_blanks_around_an_id_do_not_count(patient_id: str) -> None:
    assert pseudonym(f" {patient_id}  ", KEY) == pseudonym(patient_id, KEY)


def test_another_key_or_patient_gives_another_pseudonym() -> None:
    made = {pseudonym(patient, key) for patient in ("1", "2", "12") for key in (KEY, b"other")}
    assert len(made) == 6
    assert {len(name) for name in made} == {32}


def test_nameless_patients_and_empty_keys_are_refused() -> None:
    with pytest.raises(InvalidInput, match="needs a patient id"):
        pseudonym("  ", KEY)
    with pytest.raises(InvalidSettings, match="key is empty"):
        pseudonym("p", b"")


def test_splits_have_the_shares_that_were_asked_for() -> None:
    drawn = [split_of(pseudonym(str(i), KEY), KEY, SHARES) for i in range(20_000)]
    for name, share in SHARES.items():
        assert abs(drawn.count(name) / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_the_order_of_the_shares_does_not_matter() -> None:
    turned = dict(reversed(SHARES.items()))
    for i in range(200):
        assert split_of(str(i), KEY, SHARES) == split_of(str(i), KEY, turned)


def test_a_split_with_no_share_stays_empty_and_a_whole_one_takes_all() -> None:
    assert {split_of(str(i), KEY, {"pool": 1.0, "zero": 0.0}) for i in range(200)} == {"pool"}


def test_another_key_draws_other_splits() -> None:
    ours = [split_of(str(i), KEY, SHARES) for i in range(200)]
    assert ours != [split_of(str(i), b"other", SHARES) for i in range(200)]


@pytest.mark.parametrize(
    "shares", [{}, {"pool": 0.5}, {"pool": 1.5, "rest": -0.5}, {"": 1.0}, {"pool": 0.7, "rest": 0.4}]
)
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings, match="share"):
        split_of("p", KEY, shares)
    with pytest.raises(InvalidSettings, match="share"):
        LedgerConfig("", "", shares)


def test_a_key_file_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "var" / "pseudonym.key"
    made = read_or_make_key(path)
    assert len(made) == 32
    assert read_or_make_key(path) == made
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("text", ["", "no hex", "abcd"])
def test_a_broken_key_file_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match="must hold a key"):
        read_or_make_key(path)
    assert path.read_text() == text


def test_the_options_give_url_and_key(tmp_path: Path) -> None:
    plain = LedgerConfig("", "", SHARES)
    assert plain.resolved_url(tmp_path) == f"sqlite:///{tmp_path}/ledger.db"
    assert plain.key(tmp_path) == read_or_make_key(tmp_path / "pseudonym.key")
    full = LedgerConfig("postgresql://u:s3cret@h/d", "a key of enough bytes", SHARES)
    assert full.resolved_url(tmp_path) == "postgresql://u:s3cret@h/d"
    assert full.key(tmp_path) == b"a key of enough bytes"
    assert "s3cret" not in repr(full)
    assert "enough" not in repr(full)
    with pytest.raises(InvalidSettings, match="at least 16 bytes, got 5"):
        LedgerConfig("", "short", SHARES).key(tmp_path)
