from collections.abc import Callable, Iterator

import pytest
from starlette.types import ASGIApp

from asking import Web


@pytest.fixture
def web() -> Iterator[Callable[[ASGIApp], Web]]:
    """Makes a client of an application."""
    made: list[Web] = []

    def make(app: ASGIApp) -> Web:
        made.append(Web(app))
        return made[-1]

    yield make
    for client in made:
        client.close()
