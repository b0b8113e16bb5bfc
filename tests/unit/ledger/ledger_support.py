"""What the ledger's tests share: a clock to turn, a real PostgreSQL, and the work of child processes."""

import getpass
import glob
import multiprocessing
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.ledger.tables import metadata

TASK = "phantom_ct"
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
spawn = multiprocessing.get_context("spawn")


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def empty_tables(url: str) -> None:
    """Remove all rows, and number them from 1 again."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY")


def add_series(ledger: Ledger, *uids: str, split: str = "pool", ready: bool = True) -> None:
    for uid in uids:
        ledger.series.add(NewSeries(uid, f"study-{uid}", f"patient-{uid}", split, "CT", instances=3))
        if ready:
            ledger.series.set_ready(uid, (), "frame", None)


def draft(uid: str, version: int = 1, sop: str | None = None, **more: Any) -> NewDraft:
    segs = f"series-of-{sop}" if sop else None
    return NewDraft(uid, TASK, "transunet", version, sop_instance_uid=sop, seg_series_uid=segs, **more)


def human(uid: str, author: str = "anna", sop: str | None = None, **more: Any) -> NewHuman:
    segs = f"series-of-{sop}" if sop else None
    return NewHuman(uid, TASK, author, sop_instance_uid=sop, seg_series_uid=segs, **more)


def free_series(ledger: Ledger, strategy: str = "random") -> list[str]:
    return [entry.series_uid for entry in ledger.queue.head(TASK, strategy, limit=1000) if entry.is_free]


@contextmanager
def plans(ledger: Ledger) -> Iterator[list[str]]:
    """The steps by which SQLite does each select in the block."""
    steps: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            found = cursor.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", values)
            steps.extend(step for *_, step in found.fetchall())

    engine = ledger.jobs.database.engine
    sa.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield steps
    finally:
        sa.event.remove(engine, "before_cursor_execute", explain)


# ---- a real PostgreSQL


def postgres_folder() -> Path | None:
    """Where the server's programs are, the newest version first; None without them."""
    linked = Path("/usr/local/bin/postgres").resolve().parent
    folders = [*sorted((Path(p) for p in glob.glob("/usr/lib/postgresql/*/bin")), reverse=True), linked]
    found = shutil.which("initdb")
    folders += [Path(found).resolve().parent] if found else []
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


class Cluster:
    """A temporary PostgreSQL that listens on a socket in its own folder alone."""

    def __init__(self, programs: Path, folder: Path, user: str, durable: bool = False) -> None:
        self.programs, self.folder, self.user, self.durable = programs, folder, user, durable
        self._server: subprocess.Popen[bytes] | None = None
        self._identity = {"user": user, "group": _group(user), "extra_groups": []} if os.geteuid() == 0 else {}

    def make(self) -> None:
        command = [self.programs / "initdb", "-D", self.folder / "data", "-U", "tester", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*command, "--no-sync"], check=True, capture_output=True, cwd=self.folder, **self._identity)

    def start(self) -> None:
        options = ["-c", f"fsync={'on' if self.durable else 'off'}", "-c", "listen_addresses="]
        options += ["-c", f"unix_socket_directories={self.folder}"]
        command = [self.programs / "postgres", "-D", self.folder / "data", *options]
        self._server = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._identity
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError("the temporary PostgreSQL does not start")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(3)  # SIGQUIT: at once, without a checkpoint
            self._server.wait(30)
            self._server = None

    def url(self, database: str) -> str:
        return f"postgresql://tester@/{database}?host={self.folder}"

    def create(self) -> str:
        """The name of a new database."""
        name = f"ledger_{secrets.token_hex(6)}"
        with self._admin().connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def drop(self, name: str) -> None:
        with self._admin().connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _admin(self) -> sa.Engine:
        url = self.url("postgres").replace("postgresql://", "postgresql+psycopg://")
        return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def _answers(self) -> bool:
        engine = self._admin()
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False


@contextmanager
def running_cluster(programs: Path, durable: bool = False) -> Iterator[Cluster]:
    """A server; a durable one waits for the disk as a real one does."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="transunet-pg-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    cluster = Cluster(programs, folder, user, durable)
    try:
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    if os.geteuid() != 0:
        return getpass.getuser()
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)  # the server refuses to run as root


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


# ---- the work of child processes: found by name, so each is a function of this module


def work_take_cases(url: str, worker: str) -> Any:
    """Take cases, each for an annotator of its own, until none is free; tell which."""
    ledger, taken = Ledger(url), []
    while (lease := ledger.queue.take(TASK, "random", f"{worker}-{len(taken)}", 600)) is not None:
        taken.append(lease.series_uid)
    ledger.close()
    return taken


def work_take_one_annotator(url: str, worker: str) -> Any:
    """Take cases for one and the same annotator, as from several tabs; tell which."""
    ledger = Ledger(url)
    ledger.check()
    taken = [ledger.queue.take(TASK, "random", "anna", 600).series_uid for _ in range(5)]
    ledger.close()
    return taken


def work_label_cases(url: str, worker: str) -> Any:
    """Take and label cases until none is free; tell which."""
    ledger, taken = Ledger(url), []
    while (lease := ledger.queue.take(TASK, "random", worker, 600)) is not None:
        taken.append(lease.series_uid)
        ledger.annotations.add_human(human(lease.series_uid, worker, sop=f"seg-{lease.series_uid}"), accept=True)
    ledger.close()
    return taken


def work_take_jobs(url: str, worker: str) -> Any:
    """Take and finish jobs until there is none; tell which."""
    ledger, taken = Ledger(url), []
    while (job := ledger.jobs.take(["draft"], worker, 600)) is not None:
        taken.append(job.id)
        assert ledger.jobs.finish(job)
    ledger.close()
    return taken


def work_mixed(url: str, worker: str) -> Any:
    """Everything at once on the same few series, to provoke deadlocks; tell how many calls went through."""
    ledger, calls = Ledger(url), 0
    uids = [row.series_uid for row in ledger.series.list()]
    for turn in range(12):
        ledger.queue.rebuild(TASK, "random", [(uid, 0.5, "") for uid in uids])
        lease = ledger.queue.take(TASK, "random", worker, 600)
        if lease is not None:
            ledger.queue.release(lease)
        uid = uids[turn % len(uids)]
        sop = f"{worker}-{turn}"
        ledger.annotations.add_draft(draft(uid, turn, sop), b"seg", {"liver": 0.5}, unless_labelled=False)
        ledger.annotations.add_human(human(uid, worker, f"h-{sop}"), accept=turn % 2 == 0)
        ledger.series.add(NewSeries(uid, f"study-{uid}", f"patient-{uid}", "pool", "CT", instances=3))
        for row in ledger.outbox.pending(2, claim_s=5):
            ledger.outbox.done(row.id)
        calls += 1
    ledger.close()
    return calls


def work_upgrade(url: str, worker: str) -> Any:
    """Bring the schema up to date; tell that it is."""
    ledger = Ledger(url)
    ledger.upgrade()
    ledger.check()
    ledger.close()
    return "done"


def work_write_for_ever(url: str, answers: Any) -> None:
    """Add drafts with their files, and tell each when it was accepted, until somebody kills this process."""
    ledger, count = Ledger(url), 0
    while True:
        count += 1
        sop = f"seg-{count}"
        ledger.annotations.add_draft(draft("1.1", count, sop), b"file of " + sop.encode(), {"liver": count / 7})
        with open(answers, "a") as file:
            file.write(f"{sop}\n")


def work_take_and_die(url: str) -> None:
    """Take a case and a job for 2 s, and die."""
    ledger = Ledger(url)
    ledger.queue.take(TASK, "random", "dead", 2)
    ledger.jobs.take(["draft"], "dead", 2)
    os.kill(os.getpid(), 9)


class Crew:
    """Processes that stay (starting one takes seconds) and do a work all at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ProcessPoolExecutor(size, spawn, initializer=_meet_at, initargs=(spawn.Barrier(size),))

    def run(self, work: Callable[[str, str], Any], url: str) -> dict[str, Any]:
        """What each of the processes w0, w1, ... answers."""
        answers = {f"w{i}": self._pool.submit(_work_together, work, url, f"w{i}") for i in range(self.size)}
        return {worker: answer.result(timeout=120) for worker, answer in answers.items()}

    def close(self) -> None:
        self._pool.shutdown()


def _meet_at(barrier: Any) -> None:
    global _meeting
    _meeting = barrier


def _work_together(work: Callable[[str, str], Any], url: str, worker: str) -> Any:
    _meeting.wait(60)  # so each process does one, and all begin together
    return work(url, worker)
