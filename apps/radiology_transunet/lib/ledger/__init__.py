"""Durable state: series, annotations, scores, queue, leases, jobs, outbox, audit."""
