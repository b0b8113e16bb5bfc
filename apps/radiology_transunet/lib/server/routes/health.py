"""Whether the process lives; for probes, open without a password."""

from fastapi import APIRouter

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Say so; what is reachable stands in /info."""
    return {"status": "ok"}
