"""What every command needs: the settings with the options before the command laid on top."""

import logging
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lib.core.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

    from lib.settings import Settings
    from lib.workflows.services import Services

CONF: ContextVar[tuple[str, ...]] = ContextVar("conf", default=())
"""Every --conf of this command line; typer brings a click of its own, whose context others do not see."""


def current_settings(overrides: dict[str, str] | None = None) -> "Settings":
    """The settings with `--conf KEY=VALUE` of this command line, then the command's own options.

    Args:
        overrides: by option ("server.port"), what the command's own options say.
    """
    from lib.settings import load_settings, nested, refuse_secrets

    pairs = conf_pairs()
    for key, value in pairs:
        refuse_secrets("--conf", nested(key, value))
    return load_settings([*pairs, *(overrides or {}).items()])


def current_services() -> "Services":
    """The rooms, configured; the ledger's schema is brought up to date, its key checked."""
    from lib.workflows.services import open_services, prepare_ledger

    services = open_services(current_settings())
    prepare_ledger(services)
    return services


def offline_folder(task: str) -> "Path":
    """Where `train` puts the model of a task unless told otherwise."""
    return current_settings().var / "offline" / task


def quiet_unless_first() -> None:
    """Of the processes that torchrun has started, let the first one alone print and log; all say what fails."""
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        logging.getLogger().setLevel(logging.ERROR)


def end_at_once() -> None:
    """End a process that torchrun has started, its work being done: threads inside torch may crash an orderly end."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)


def conf_pairs() -> list[tuple[str, str]]:
    """Pairs (option, value) of every --conf of this command line."""
    return [_pair(text) for text in CONF.get()]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidSettings(
            f"--conf takes KEY=VALUE, for example archive.url=http://127.0.0.1:8042/dicom-web; got {text!r}"
        )
    return key, value
