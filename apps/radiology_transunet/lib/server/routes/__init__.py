"""The routes, one module a resource: parse, call a workflow in a thread, shape the reply."""

from lib.server.routes import (
    activelearning,
    auth,
    batch,
    cases,
    curation,
    datastore,
    health,
    infer,
    info,
    model,
    reports,
    scoring,
    session,
    train,
    viewer,
    worklist,
)

ROUTERS = (
    health.router,
    auth.router,
    info.router,
    infer.router,
    activelearning.router,
    train.router,
    datastore.router,
    scoring.router,
    batch.router,
    model.router,
    session.router,
    cases.router,
    curation.router,
    worklist.router,
    reports.router,
    viewer.router,  # last: its paths are open
)
