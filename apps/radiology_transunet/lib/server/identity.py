"""Who annotates: a name that is recorded as the author, not a proof."""

import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fastapi import Request

from lib.core.errors import InvalidInput

COOKIE = "transunet_user"
ANONYMOUS = "anonymous@"
MAX_NAME = 64
FORBIDDEN_SIGNS = frozenset("\\=")
"""What DICOM parts values and groups of a person's name with (PS3.5, 6.2)."""

FORBIDDEN_KINDS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that a person's name cannot hold: control signs, halves of signs, ends of lines."""


def annotator(request: Request, params: Mapping[str, Any] | None = None) -> str:
    """Name of the person behind a request.

    The first of: the log-in, `?user=`, the cookie that our pages set, `client_id` of MONAI Label's clients, the
    address.

    Raises:
        InvalidInput: a name that DICOM cannot hold; see `problem_of`.
    """
    login = getattr(request.state, "user", None)
    candidates = (
        login,
        request.query_params.get("user"),
        unquote(request.cookies.get(COOKIE, "")),
        (params or {}).get("client_id"),
    )
    name = next((text for candidate in candidates if (text := str(candidate or "").strip())), None)
    if name is None:
        return f"{ANONYMOUS}{request.client.host if request.client else 'local'}"
    problem = problem_of(name)
    if problem:
        raise InvalidInput(f"{problem}, got {name[:80]!r}")
    return name


def problem_of(name: str) -> str:
    """Why DICOM cannot hold a name of a person, "" when it can. The pages check the same in client.js."""
    if len(name) > MAX_NAME:
        return f"a user name has at most {MAX_NAME} characters"
    if any(sign in FORBIDDEN_SIGNS or unicodedata.category(sign) in FORBIDDEN_KINDS for sign in name):
        return "a user name has no backslash, no = and no control characters"
    return ""


def named_annotator(request: Request, params: Mapping[str, Any] | None = None) -> str:
    """Like `annotator`, but empty when nobody gave a name."""
    name = annotator(request, params)
    return "" if name.startswith(ANONYMOUS) else name
