"""The OHIF viewer: its unchanged files, our configuration and our panel."""

from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from lib.core.errors import NotFound

PANEL_FOLDER = Path(__file__).parent / "ohif"
SHARED_PARTS = ("format.js", "client.js")
CONFIG_PARTS = (*SHARED_PARTS, "strokes.js", "panelstyle.js", "panel.js", "plugin.js", "config.js")
"""Scripts that make up /app-config.js, the one file that OHIF's page loads before its own."""

FOREVER = "public, max-age=31536000, immutable"
ALWAYS_ASK = "no-cache"
HASHED_SUFFIXES = (".js", ".wasm", ".woff2")
NEVER_SERVED = frozenset({"sw.js", "init-service-worker.js", "google.js", "oidc-client.min.js"})
"""Scripts of OHIF that load code from other hosts; the viewer works without them."""

NOTHING = "/* left out: it would load code from another host */\n"

MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>OHIF is not installed</title>
<body style="font:16px system-ui;background:#0b1016;color:#dbe4ee;padding:3rem">
<h1>The OHIF viewer is not installed</h1>
<p>Expected its files in <code>{folder}</code>. Run <code>scripts/setup</code> to get them.</p>
<p>Meanwhile: <a style="color:#6cb6ff" href="/worklist">worklist</a>. 3D Slicer works without the viewer.</p>"""


def config_script() -> str:
    """Text of /app-config.js."""
    return _joined(CONFIG_PARTS)


def shared_script() -> str:
    """Text of /transunet.js: what the worklist shares with the panel."""
    return _joined(SHARED_PARTS)


def _joined(parts: tuple[str, ...]) -> str:
    return "\n".join((PANEL_FOLDER / part).read_text(encoding="utf-8") for part in parts)


def serve_file(folder: Path, path: str, request: Request) -> Response:
    """A file of the viewer, or its start page for its own routes (/segmentation, /viewer, ...).

    Args:
        folder: of the unpacked viewer.
        path: requested, without the slash at the start.
        request: read for what it accepts.

    Raises:
        NotFound: no such file.
    """
    index = folder / "index.html"
    if not index.is_file():
        return HTMLResponse(MISSING.format(folder=folder), 503)
    if path in NEVER_SERVED:
        return Response(NOTHING, media_type="text/javascript", headers={"Cache-Control": ALWAYS_ASK})
    file = _inside(folder, path)
    if file is not None:
        return FileResponse(file, headers={"Cache-Control": _caching(file)})
    if _is_page(path, request):
        return FileResponse(index, headers={"Cache-Control": ALWAYS_ASK})
    raise NotFound(f"no file {path[:200]!r} here")


def _inside(folder: Path, path: str) -> Path | None:
    """The file at that path, or None when there is none or it lies outside the folder."""
    if not path or "\0" in path:
        return None
    file = (folder / path).resolve()
    return file if file.is_relative_to(folder.resolve()) and file.is_file() else None


def _is_page(path: str, request: Request) -> bool:
    return "." not in path.rpartition("/")[2] and "text/html" in request.headers.get("accept", "*/*").replace(
        "*/*", "text/html"
    )


def _caching(file: Path) -> str:
    """Files whose name carries a hash of their content never change."""
    hashed = file.suffix in HASHED_SUFFIXES and any(len(part) >= 16 for part in file.name.split("."))
    return FOREVER if hashed else ALWAYS_ASK
