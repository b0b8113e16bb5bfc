"""Who annotates: a name that is recorded as the author, not a proof."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fastapi import Request

from lib.core.errors import InvalidInput

COOKIE = "transunet_user"
ANONYMOUS = "anonymous@"
NAME = re.compile(r"[\w.@+\- ]{1,64}")


def annotator(request: Request, params: Mapping[str, Any] | None = None) -> str:
    """Name of the person behind a request.

    The first of: the log-in, `?user=`, the cookie that our pages set, `client_id` of MONAI Label's clients, the
    address.

    Raises:
        InvalidInput: a name with other characters than letters, digits, blanks and . @ + - _, or longer than 64.
    """
    login = getattr(request.state, "user", None)
    candidates = (
        login,
        request.query_params.get("user"),
        unquote(request.cookies.get(COOKIE, "")),
        (params or {}).get("client_id"),
    )
    name = next((str(candidate) for candidate in candidates if candidate), None)
    if name is None:
        return f"{ANONYMOUS}{request.client.host if request.client else 'local'}"
    if not NAME.fullmatch(name):
        raise InvalidInput(f"a user name has 1 to 64 letters, digits, blanks or . @ + - _, got {name[:80]!r}")
    return name


def named_annotator(request: Request, params: Mapping[str, Any] | None = None) -> str:
    """Like `annotator`, but empty when nobody gave a name."""
    name = annotator(request, params)
    return "" if name.startswith(ANONYMOUS) else name
