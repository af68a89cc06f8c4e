"""How gunicorn serves in a container: as on the server, but at a port, and it logs requests.

There it is roles/gunicorn/templates/gunicorn.conf.py.j2, whose settings a test compares with these.
"""

import gc
import os
import sys
import time

from gunicorn.workers.gthread import ThreadWorker


class EvenWorker(ThreadWorker):
    """gunicorn's gthread, but it leaves new connections to workers that have less to do.

    gthread accepts whatever comes, and lets it wait for its own threads while those of another
    worker are idle. Here a worker with as many connections as threads does not listen for a moment
    when one comes, and accepts it only if it is still there then.
    """

    hesitates_until = None

    def accept(self, listener):
        """Accept a connection, or hesitate first; longer where all threads are busy."""
        if self.nr_conns < self.cfg.threads or self.hesitates_until is not None:
            super().accept(listener)
            return
        idle = len(self.keepalived_conns) + len(getattr(self, "pending_conns", ()))
        pause = 0.003 if self.nr_conns - idle < self.cfg.threads else 0.01
        self.hesitates_until = time.monotonic() + pause
        self.worker_connections = 0  # gthread's loop stops listening

    def wait_for_and_dispatch_events(self, timeout):
        """Wait, no longer than it hesitates; then have it listen again."""
        until = self.hesitates_until if self.alive else None
        if until is not None:
            timeout = max(until - time.monotonic(), 0)
        super().wait_for_and_dispatch_events(timeout)
        if until is None:
            return
        if self._accepting:  # it has looked again
            self.hesitates_until = None
        elif self.nr_conns < self.cfg.threads or time.monotonic() >= until:
            self.worker_connections = self.cfg.worker_connections


wsgi_app = "app:app"
bind = ["0.0.0.0:8000"]
control_socket = "/tmp/gunicorn.ctl"  # noqa: S108  the container's own

threads = 2
workers = int(os.environ.get("GUNICORN_WORKERS") or len(os.sched_getaffinity(0)) * 2 + 1)
os.environ.setdefault("DATABASE_POOL_SIZE", str(threads))
os.environ.setdefault("DATABASE_MAX_OVERFLOW", "0")
# gunicorn before 24 has another loop.
worker_class = EvenWorker if hasattr(ThreadWorker, "wait_for_and_dispatch_events") else "gthread"
preload_app = True
worker_tmp_dir = "/dev/shm"  # noqa: S108  memory, not a disk that may be slow

timeout = 60
graceful_timeout = 30
keepalive = 75
max_requests = 0
max_requests_jitter = 0

loglevel = "info"
accesslog = "-"


engines = []


def pre_fork(server, worker):
    """Find the pools here, and keep the garbage collector away from what all workers share.

    A worker that looked through all objects, or whose collector did, would write to each of them,
    and have a copy of the memory for itself.
    """
    if "sqlalchemy" in sys.modules:
        from sqlalchemy import Engine

        engines.extend(t for t in gc.get_objects() if issubclass(type(t), Engine))
    gc.freeze()


def post_fork(server, worker):
    """Give each worker a pool of its own: a database connection must not cross a fork."""
    for engine in engines:
        engine.dispose(close=False)
