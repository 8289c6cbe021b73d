"""The figures that an operator watches, in a registry of their own.

Every label has few values that are known beforehand, or names a task: nothing that a client sends
becomes a label, so that no client can fill the memory of whoever collects.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics", "resident_bytes"]

_QUICK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_SLOW_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics:
    """One server's figures; each attribute is a Prometheus metric, to be set by whoever knows it.

    >>> metrics = Metrics()
    >>> metrics.check_ins.labels("assigned").inc()
    >>> b'fedcore_check_ins_total{answer="assigned"} 1.0' in metrics.exposition()
    True
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fedcore_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fedcore_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"fedcore_{name}", text, labels, registry=registry, buckets=buckets)

        self.rpcs = counter("rpcs", "RPCs by how they ended", "method", "status")
        self.rpc_seconds = histogram("rpc_seconds", "time to answer", _QUICK_S, "method")
        self.refusals = counter("refusals", "RPCs that were refused", "code")
        self.check_ins = counter("check_ins", "answered check-ins", "answer")
        self.assignments = counter("assignments", "parts in rounds, given and completed", "state")
        self.rounds = counter("rounds", "attempts at rounds by how they ended", "outcome")
        # From 0 on, since an alert that compares with a series that is not there never fires.
        for state in ("given", "completed"):
            self.assignments.labels(state)
        for outcome in ("COMPLETED", "ABANDONED", "FAILED", "CANCELLED"):
            self.rounds.labels(outcome)
        self.tasks_not_taken_up = gauge(
            "tasks_not_taken_up", "tasks that stand still on this server"
        )
        self.phase_seconds = histogram("phase_seconds", "duration of phases", _SLOW_S, "phase")
        self.dropouts = counter("dropouts", "clients lost, by the phase they were in", "phase")
        self.upload_bytes = counter("upload_bytes", "bytes of updates that were taken")
        self.download_bytes = counter("download_bytes", "bytes of models that were sent")
        self.epsilon_spent = gauge("epsilon_spent", "reserved of the budget, so spent", "task")
        self.epsilon_budget = gauge("epsilon_budget", "the budget of a task that runs", "task")
        self.commit_seconds = histogram("commit_seconds", "time of database commits", _QUICK_S)
        self.database_bytes = gauge("database_bytes", "size of the database file")
        self.wal_bytes = gauge("wal_bytes", "size of its write-ahead log")
        self.chunk_bytes = gauge("chunk_bytes", "chunks of updates in memory, not in a file yet")
        self.queue = gauge("queue", "RPCs that wait for others to end")
        self.loop_lag_seconds = gauge("loop_lag_seconds", "how late the event loop is")
        self.loop_seconds = counter("loop_seconds", "processor time of the event loop")
        self.coroutines = gauge("coroutines", "what goes on in the event loop at once")
        self.ready = gauge("ready", "1 while the server takes new work")
        self.resident_bytes = gauge("resident_bytes", "memory of the process")
        self.resident_bytes.set_function(resident_bytes)

    def watch_lag(self, lag_s: Callable[[], float]) -> None:
        """Reads the lag of the event loop whenever the figures are asked for."""
        self.loop_lag_seconds.set_function(lag_s)

    def watch_coroutines(self, running: Callable[[], float]) -> None:
        """Counts what goes on in the event loop whenever the figures are asked for."""
        self.coroutines.set_function(running)

    def watch_queue(self, waiting: Callable[[], float]) -> None:
        """Reads the length of the queue whenever the figures are asked for."""
        self.queue.set_function(waiting)

    def watch_chunks(self, in_flight: Callable[[], float]) -> None:
        """Reads the memory of chunks whenever the figures are asked for."""
        self.chunk_bytes.set_function(in_flight)

    def forget_budget(self, task_id: str, *, spent: bool) -> None:
        """Forgets the budget of a task that has ended, so that none is nearly spent any more.

        `spent`: also what is spent of it, which another server tells from now on.
        """
        self.epsilon_budget.remove(task_id)
        if spent:
            self.epsilon_spent.remove(task_id)

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


def resident_bytes() -> float:
    """Memory that the process holds, in bytes; its peak where the system tells no more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return float(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
