"""`transunet-label demo`: the whole loop on one machine, from an empty folder to drafts in the viewer."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from lib.cli.demo_bars import Bars, Stopwatch
from lib.cli.files import write_json
from lib.core.errors import LabelError

if TYPE_CHECKING:
    from lib.cli.demo_site import Site
    from lib.demo.cohort import CohortCase
    from lib.ledger.rows import JobRow
    from lib.workflows.services import Services

LOOK_EVERY_S = 0.5
MAX_MINUTES = 2.5
"""Time for the steps of the training when the task sets none: nobody waits longer for a first look."""

DATA = typer.Option(None, "--data", metavar="DIR", help="Use the NIfTI files in images/ and labels/ of a folder.")
TASK = typer.Option(
    "", "--task", help="Task to serve: a name in tasks/ or a path; default: the first one of the settings."
)
RULE = typer.Option(
    "", "--patient-rule", metavar="RULE", help="Who a file's patient is: each, pairs, or a pattern with a group."
)
PORT = typer.Option(
    0, "--port", min=0, max=65535, help="Port of the server; default: that of the settings, or a free one."
)
UNTIL_READY = typer.Option(False, "--until-ready", help="End once every unlabelled series has a draft.")
JSON_FILE = typer.Option(None, "--json", metavar="FILE", help="Write down what happened.")


def demo(
    data: Path | None = DATA,
    task: str = TASK,
    patient_rule: str = RULE,
    port: int = PORT,
    until_ready: bool = UNTIL_READY,
    json_file: Path | None = JSON_FILE,
) -> None:
    """Start an archive with a demo cohort, train, draft and show the worklist. Ctrl-C ends all of it.

    Example: transunet-label demo --data ../data/hippocampus --task hippocampus_mr
    """
    from lib.cli.demo_site import running_site
    from lib.workflows.services import open_services, prepare_ledger

    clock = Stopwatch(time.monotonic())
    console = Console()
    quiet(logging.getLogger())
    console.print("starting the archive")
    with running_site(task, port) as site:
        clock.passed("archive")
        services = open_services(site.settings)
        prepare_ledger(services)
        run = DemoRun(site, services, make_cohort(services, data, patient_rule), console, clock)
        run.get_ready()
        if json_file is not None:
            write_json(json_file, run.report())
        if not until_ready:
            console.print("[bold]Ctrl-C[/bold] ends the demo")
            run.watch()


class DemoRun:
    """Follows one run of the demo in the ledger, and asks for the training when the labels are in.

    Args:
        site: the running processes.
        services: the rooms.
        cohort: the demo's cases.
        console: where to tell.
        clock: notes when each stage ended.
    """

    def __init__(
        self, site: "Site", services: "Services", cohort: "Sequence[CohortCase]", console: Console, clock: Stopwatch
    ) -> None:
        from lib.cli.demo_standing import observe
        from lib.cli.demo_upload import Upload

        self.site = site
        self.services = services
        self.task = services.task()
        self.cohort = cohort
        self.console = console
        self.clock = clock
        self.upload = Upload(services, cohort, site.folder)
        self.standing = observe(services, self.task, cohort)
        self.earlier_model = bool(services.ledger.models.list(task=self.task.name, limit=1))
        self.job_id: int | None = None

    def get_ready(self) -> None:
        """Return once every series without a human label has a draft.

        Raises:
            LabelError: a process ended, the upload or the training failed, or a draft could not be made.
        """
        self.upload.start()
        with Bars(self.console, self.cohort) as bars:
            while not self._look(bars):
                time.sleep(LOOK_EVERY_S)
        self.clock.passed("drafts")
        self.clock.passed("total")
        for title, reason in {**self.standing.refused, **self.standing.rejected}.items():
            self.console.print(f"[yellow]{title} cannot be used:[/yellow] {reason}")
        if self.standing.failed:
            reasons = "; ".join(f"{title}: {reason}" for title, reason in self.standing.failed.items())
            raise LabelError(f"{len(self.standing.failed)} drafts could not be made: {reasons}")
        self._tell_result()

    def watch(self) -> None:
        """Stay until interrupted; a process that ends by itself is an error."""
        while True:
            self.site.require_alive()
            time.sleep(LOOK_EVERY_S)

    def report(self) -> dict[str, object]:
        """What happened, as plain values."""
        from lib.cli.demo_standing import report

        model = self.services.registry.champion(self.task.name)
        if model is None:
            raise LabelError(f"task {self.task.name} must have a champion after the demo, got none")
        return {
            **report(self.cohort, self.standing, model, self.task.schema.names, self.clock.seconds()),
            "orthanc": self.site.orthanc.url,
            "server": self.site.settings.server.url,
            "worklist": self.site.worklist_url,
        }

    def _look(self, bars: Bars) -> bool:
        """Look once at everything; whether the demo is ready."""
        from lib.cli.demo_standing import observe

        self.site.require_alive()
        if self.upload.error is not None:
            raise self.upload.error
        self.standing = observe(self.services, self.task, self.cohort)
        bars.show_labels(self.upload.stored, self.standing)
        self._greet()
        if self.upload.stored == len(self.cohort):
            self.clock.passed("upload")
        if not self._labels_are_in():
            return False
        self.clock.passed("labels")
        job = self._training()
        bars.show_training(job, self.standing)
        if job is not None and job.state != "done":
            return False
        self.clock.passed("training")
        settled = self.standing.ready + len(self.standing.refused) == len(self.cohort)
        return settled and self.standing.unread + self.standing.waiting == 0 and self.clock.has("worklist")

    def _greet(self) -> None:
        """Print the address as soon as somebody can work there."""
        if not self.clock.has("server") and self.site.server_answers():
            self.clock.passed("server")
        if not self.clock.has("worklist") and self.clock.has("server") and self.standing.ready:
            self.clock.passed("worklist")
            self.console.print(f"[bold green]worklist:[/bold green] {self.site.worklist_url}")

    def _labels_are_in(self) -> bool:
        """Whether each label that a first training looks at is accepted, or known to be unusable."""
        return self.standing.awaited == 0

    def _training(self) -> "JobRow | None":
        """The training, asked for the first time; None when a model of an earlier run serves.

        Raises:
            LabelError: it failed.
        """
        from lib.workflows.retrain import request_retrain

        if self.earlier_model:
            return None
        if self.job_id is None:
            limit = {} if self.task.training.max_minutes else {"max_minutes": MAX_MINUTES}
            self.job_id = request_retrain(self.services, self.task, limit, actor="demo")
        job = self.services.ledger.jobs.get(self.job_id)
        if job.state in ("failed", "cancelled"):
            raise LabelError(f"the training {job.state}: {job.error or 'somebody cancelled it'}; see {self.site.log}")
        return job

    def _tell_result(self) -> None:
        from lib.cli.demo_upload import GATE_SPLIT

        found = self.report()
        self.console.print(
            f"[bold green]ready:[/bold green] {found['drafted']} drafts by model version {found['model_version']}; "
            f"held-out Dice {found['heldout_dice']}"
        )
        self.console.print(f"for other commands: source {self.site.environment_file}")
        judged = len({case.patient_id for case in self.cohort if case.split == GATE_SPLIT})
        if judged:
            again = f"transunet-label retrain, which the gate judges on {judged} patients"
            self.console.print(f"correct a draft, then: {again}; {self.site.settings.server.url}/reports tells how")


def make_cohort(services: "Services", data: Path | None, patient_rule: str) -> "tuple[CohortCase, ...]":
    """The phantoms, or the series of a folder.

    Raises:
        InvalidInput: the folder or the rule cannot be used.
    """
    from lib.demo.cohort import phantom_cohort
    from lib.demo.folder import folder_cohort

    task = services.task()
    if data is None:
        return phantom_cohort(task.schema)
    return folder_cohort(data, task.schema, task.modalities[0], patient_rule)


def quiet(logger: logging.Logger) -> None:
    """Keep remarks away from the bars; --verbose shows them."""
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.WARNING)
