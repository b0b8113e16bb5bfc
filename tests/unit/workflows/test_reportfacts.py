from collections.abc import Callable

from lib.ledger.rows import NewHuman
from lib.workflows.report import Failure
from lib.workflows.reportfacts import failures
from lib.workflows.services import Services


def test_labels_held_back_are_among_the_data_that_failed_until_somebody_decides(
    services: Services, add_series: Callable[..., str], label: Callable[..., int]
) -> None:
    annotations, task = services.ledger.annotations, services.task()
    slip = NewHuman(add_series("p1"), task.name, "Ann", None, None, nothing_found=True, held_reason="it is empty")
    held = annotations.add_human(slip, accept=True)
    label("p2", accept=False)  # waits for its reviewer and has failed nothing
    assert failures(services, task, []) == (Failure("label held back", str(held), "it is empty"),)
    annotations.accept(held, "rev")
    assert failures(services, task, []) == ()
