"""How gunicorn serves in a container: as on the server, but at a port, and it logs requests.

There it is roles/gunicorn/templates/gunicorn.conf.py.j2, whose settings a test compares with these.
"""

import gc
import os
import sys

wsgi_app = "app:app"
bind = ["0.0.0.0:8000"]
control_socket = "/tmp/gunicorn.ctl"  # noqa: S108  the container's own

threads = 2
workers = int(os.environ.get("GUNICORN_WORKERS") or len(os.sched_getaffinity(0)) * 2 + 1)
os.environ.setdefault("DATABASE_POOL_SIZE", str(threads))
os.environ.setdefault("DATABASE_MAX_OVERFLOW", "0")
worker_class = "gthread"
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
