"""The command `transunet-label`: collects the command groups and turns errors into exit codes.

Exit codes: 0 done; 1 an error whose message says what to do; 2 wrong usage; 130 stopped with Ctrl-C.
"""

import logging
import sys

import typer

from lib.cli import (
    curate,
    demo,
    doctor,
    evaluate,
    field,
    import_weights,
    ingest,
    models,
    next_case,
    plan,
    predict,
    presegment,
    report,
    retrain,
    review,
    serve,
    status,
    train,
    worker,
)
from lib.cli.context import CONF
from lib.core.errors import LabelError

HELP = "TransUNet annotation server for radiology: pre-segment, correct, retrain. Research use; not a medical device."

CHATTY = ("dicomweb_client", "highdicom", "httpx", "alembic", "apscheduler")
"""Libraries that log each of their steps as information."""


def build_app() -> typer.Typer:
    """The command tree; building it imports nothing heavy."""
    app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(_options)
    for command in (
        serve.serve,
        worker.worker,
        demo.demo,
        doctor.doctor,
        status.status,
        field.field,
        report.report,
        ingest.ingest,
        presegment.presegment,
        plan.plan,
        train.train,
        predict.predict,
        evaluate.evaluate,
        retrain.retrain,
        import_weights.import_weights,
    ):
        app.command()(command)
    app.command("next")(next_case.next_case)
    app.add_typer(review.app, name="review")
    app.add_typer(curate.app, name="curate")
    app.add_typer(models.app, name="models")
    return app


def _options(
    conf: list[str] = typer.Option([], "--conf", metavar="KEY=VALUE", help="Set an option, e.g. archive.url=http://…"),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens in detail."),
) -> None:
    """Options before the command."""
    CONF.set(tuple(conf))
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.WARNING)


def main() -> None:
    """Entry point of the console command."""
    try:
        build_app()(prog_name="transunet-label")
    except LabelError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
