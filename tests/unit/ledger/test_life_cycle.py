"""Any sequence of what people, models and reviewers do leaves the ledger as a small model says."""

from dataclasses import dataclass, field
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledger_support import TASK, Clock, add_series, draft, human

from lib.core.errors import Conflict
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft

CASES = (0, 1, 2)
PEOPLE = st.sampled_from(("anna", "ben"))
cases = st.sampled_from(CASES)
runs = count()


@dataclass
class Entry:
    """What the model knows of one annotation."""

    case: int
    origin: str
    status: str
    held: bool = False
    made_s: float = 0.0


@dataclass
class Model:
    """The rules in a few lines, kept in memory."""

    entries: dict[int, Entry] = field(default_factory=dict)
    holders: dict[int, tuple[str, float]] = field(default_factory=dict)
    now_s: float = 0.0

    def supersede(
        self, case: int, *statuses: str, origin: str = "", held: bool | None = None, until_s: float | None = None
    ) -> None:
        """What was held back after `until_s` stays."""
        for entry in self.entries.values():
            matches = origin in ("", entry.origin) and held in (None, entry.held)
            waits = entry.held and entry.status == "submitted" and until_s is not None and entry.made_s > until_s
            if entry.case == case and entry.status in statuses and matches and not waits:
                entry.status = "superseded"

    def is_labelled(self, case: int) -> bool:
        return any(e.case == case and e.status in ("submitted", "accepted") for e in self.entries.values())

    def holder(self, case: int) -> str | None:
        name, until = self.holders.get(case, ("", -1.0))
        return name if until > self.now_s else None

    def pick(self, status: str, number: int) -> int | None:
        ids = sorted(key for key, entry in self.entries.items() if entry.status == status)
        return ids[number % len(ids)] if ids else None


class LifeCycle(RuleBasedStateMachine):
    """Drives a real ledger and the model side by side."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        super().__init__()
        self.ledger, self.clock, self.model = ledger, clock, Model()
        self.task = f"{TASK}-{next(runs)}"
        self.uids = [f"{self.task}.{case}" for case in CASES]
        self.versions, self.sops = count(1), count()
        add_series(ledger, *self.uids)
        ledger.queue.rebuild(self.task, "random", [(uid, 0.0, "") for uid in self.uids])

    def of_this_run(self, new: object) -> object:
        """The input with this run's task: its rows do not meet those of other runs."""
        values = {name: getattr(new, name) for name in type(new).__dataclass_fields__}
        return type(new)(**{**values, "task": self.task})

    @rule(case=cases)
    def draft_of_ours(self, case: int) -> None:
        new = self.of_this_run(draft(self.uids[case], next(self.versions), f"{self.task}-s{next(self.sops)}"))
        if self.model.is_labelled(case):
            try:
                self.ledger.annotations.add_draft(new, b"seg")
            except Conflict:
                return
            raise AssertionError("a draft of a labelled case must be refused")
        self.model.supersede(case, "draft", origin="model")
        self.model.entries[self.ledger.annotations.add_draft(new, b"seg")] = Entry(case, "model", "draft")

    @rule(case=cases)
    def foreign_draft(self, case: int) -> None:
        new = NewDraft(self.uids[case], self.task, "AI", origin="foreign_model")
        self.model.supersede(case, "draft", origin="foreign_model")
        made = self.ledger.annotations.add_draft(new, unless_labelled=False)
        self.model.entries[made] = Entry(case, "foreign_model", "draft")

    @rule(case=cases, who=PEOPLE, accept=st.booleans())
    def person_saves(self, case: int, who: str, accept: bool) -> None:
        new = self.of_this_run(human(self.uids[case], who, f"{self.task}-h{next(self.sops)}"))
        made = self.ledger.annotations.add_human(new, accept=accept)
        self.model.supersede(case, "submitted", *(("draft", "accepted") if accept else ()))
        self.model.entries[made] = Entry(case, "human", "accepted" if accept else "submitted", made_s=self.model.now_s)
        self.model.holders.pop(case, None)
        assert self.ledger.annotations.add_human(new, accept=accept) == made

    @rule(case=cases, who=PEOPLE, accept=st.booleans())
    def person_saves_what_is_held_back(self, case: int, who: str, accept: bool) -> None:
        new = self.of_this_run(human(self.uids[case], who, f"{self.task}-h{next(self.sops)}", held_reason="empty"))
        made = self.ledger.annotations.add_human(new, accept=accept)
        self.model.supersede(case, "submitted", held=True)
        self.model.entries[made] = Entry(case, "human", "submitted", True, self.model.now_s)
        self.model.holders.pop(case, None)

    @rule(number=st.integers(0, 99))
    def reviewer_accepts(self, number: int) -> None:
        chosen = self.model.pick("submitted", number)
        if chosen is not None:
            self.ledger.annotations.accept(chosen, "chief")
            entry = self.model.entries[chosen]
            self.model.supersede(entry.case, "draft", "submitted", "accepted", until_s=entry.made_s)
            entry.status = "accepted"

    @rule(status=st.sampled_from(("submitted", "accepted")), number=st.integers(0, 99))
    def reviewer_rejects(self, status: str, number: int) -> None:
        chosen = self.model.pick(status, number)
        if chosen is not None:
            self.ledger.annotations.reject(chosen, "chief", "no")
            self.model.entries[chosen].status = "rejected"

    @precondition(lambda self: self.model.entries)
    @rule(number=st.integers(0, 99), wrong=st.sampled_from(("draft", "superseded", "rejected")))
    def nothing_else_can_be_reviewed(self, number: int, wrong: str) -> None:
        chosen = self.model.pick(wrong, number)
        if chosen is None:
            return
        for review in (lambda: self.ledger.annotations.accept(chosen, "x"), lambda: self.reject(chosen)):
            try:
                review()
            except Conflict:
                continue
            raise AssertionError(f"a {wrong} annotation must not be reviewed")

    def reject(self, annotation_id: int) -> None:
        self.ledger.annotations.reject(annotation_id, "x", "y")

    @rule(who=PEOPLE)
    def person_takes(self, who: str) -> None:
        lease = self.ledger.queue.take(self.task, "random", who, 60)
        open_cases = [case for case in CASES if not self.model.is_labelled(case)]
        own = [case for case in open_cases if self.model.holder(case) == who]
        free = [case for case in open_cases if self.model.holder(case) is None]
        expected = own or free
        if not expected:
            assert lease is None
            return
        case = self.uids.index(lease.series_uid)
        assert case in own if own else case == free[0]
        self.model.holders[case] = (who, self.model.now_s + 60)

    @rule(case=cases, who=PEOPLE)
    def person_opens(self, case: int, who: str) -> None:
        holder = self.model.holder(case)
        try:
            self.ledger.queue.lease(self.uids[case], self.task, who, 60)
        except Conflict:
            assert holder not in (None, who)
            return
        assert holder in (None, who)
        self.model.holders[case] = (who, self.model.now_s + 60)

    @rule(seconds=st.sampled_from((1, 30, 60)))
    def time_passes(self, seconds: int) -> None:
        self.clock.turn(seconds)
        self.model.now_s += seconds

    @rule()
    def queue_is_rebuilt(self) -> None:
        assert self.ledger.queue.rebuild(self.task, "random", [(uid, 0.0, "") for uid in self.uids])

    @invariant()
    def every_annotation_is_what_the_model_says(self) -> None:
        rows = self.ledger.annotations.list(task=self.task, limit=None)
        found = {
            row.id: (self.uids.index(row.series_uid), row.origin, row.status, bool(row.held_reason)) for row in rows
        }
        assert found == {k: (e.case, e.origin, e.status, e.held) for k, e in self.model.entries.items()}

    @invariant()
    def labels_are_the_accepted_ones_of_people(self) -> None:
        labels = {row.id for row in self.ledger.annotations.accepted(self.task)}
        expected = {k for k, e in self.model.entries.items() if e.status == "accepted" and e.origin == "human"}
        assert labels == expected

    @invariant()
    def what_is_held_back_waits_for_a_reviewer(self) -> None:
        held = {row.id for row in self.ledger.annotations.held(self.task)}
        assert held == {k for k, e in self.model.entries.items() if e.held and e.status == "submitted"}

    @invariant()
    def holders_are_known(self) -> None:
        for case, uid in enumerate(self.uids):
            lease = self.ledger.queue.holder(uid, self.task)
            assert (lease.annotator if lease else None) == self.model.holder(case)

    @invariant()
    def what_is_free_is_never_held_or_labelled(self) -> None:
        """Leases that are over are ended when somebody takes, so a free case may still be hidden, never the reverse."""
        head = self.ledger.queue.head(self.task, "random")
        for entry in (entry for entry in head if entry.is_free):
            case = self.uids.index(entry.series_uid)
            assert self.model.holder(case) is None
            assert not self.model.is_labelled(case)


def test_any_sequence_of_events_keeps_the_rules(ledger: Ledger, clock: Clock) -> None:
    run_state_machine_as_test(
        lambda: LifeCycle(ledger, clock),
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
