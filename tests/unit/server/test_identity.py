from urllib.parse import quote

import pytest
from starlette.requests import Request

from lib.core.errors import InvalidInput
from lib.dicom.seg import SegOrigin
from lib.server.identity import annotator, named_annotator


def request(query: str = "", cookie: str = "", login: str | None = None) -> Request:
    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = {"type": "http", "query_string": query.encode(), "headers": headers, "client": ("10.0.0.7", 5)}
    return Request({**scope, "state": {"user": login}})


def test_the_log_in_comes_first_then_address_cookie_and_client_id() -> None:
    cookie = "transunet_user=Dr.%20%C3%84nne"
    assert annotator(request("user=ben", cookie, "eve"), {"client_id": "x"}) == "eve"
    assert annotator(request("user=ben", cookie), {"client_id": "x"}) == "ben"
    assert annotator(request("", cookie), {"client_id": "x"}) == "Dr. Änne"
    assert annotator(request(), {"client_id": "x"}) == "x"


def test_who_gives_no_name_is_known_by_the_address_and_is_no_author() -> None:
    assert annotator(request(), {"client_id": None}) == "anonymous@10.0.0.7"
    assert named_annotator(request()) == ""
    assert named_annotator(request("user=ben")) == "ben"


NAMES = [
    "Dr. O'Neill",
    "Müller, Anna",
    "Anna (Radiologie)",
    "D\u2019Angelo/Rossi",
    "李小龍",
    "أحمد",
    "Ян^Чохральский",
    "a" * 64,
]


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_names_of_any_script_are_names(name: str) -> None:
    assert annotator(request("", f"transunet_user={quote(name)}")) == name
    assert annotator(request(f"user={quote(name)}")) == name
    assert annotator(request("", "", name)) == name
    SegOrigin("MANUAL", name, "", "", "")  # the label's file can hold it


@pytest.mark.parametrize("name", ["a" * 65, "a\\b", "a=b", "a\nb", "a\0b", "a\u2028b", "\x85"])
def test_a_name_that_dicom_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="user name"):
        annotator(request(f"user=x{quote(name)}x"))


def test_blanks_around_a_name_are_no_part_of_it_and_blanks_alone_are_no_name() -> None:
    assert annotator(request("user=%20ben%20")) == "ben"
    assert named_annotator(request("user=%20%20")) == ""
