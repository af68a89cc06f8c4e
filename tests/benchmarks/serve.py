#!/usr/bin/env python3
"""How fast it answers, and with what: servers, workers, threads, drivers, and their limits.

On one fresh host made by site.yml, with the load inside it: the servers that a beginner hears of,
then one setting after another, in interleaved rounds. The figures go to docs/benchmarks.md, with
docs/serve.svg and docs/workers.svg; without `make`:

    .venv/bin/python tests/benchmarks/serve.py [--rounds N | --quick | --again]
"""

import contextlib
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common import (
    NOT_SOURCE,
    ROOT,
    BenchmarkError,
    draw,
    fresh_host,
    inventory,
    main,
    play,
    run,
    say,
    ssh,
)
from serve_figures import (
    CLIENTS,
    LONG_SECONDS,
    SECONDS,
    SELECT_8,
    SELECT_64,
    Cell,
    Figures,
    Sample,
    Shape,
)
from serve_page import ENDPOINTS, PICTURES, pictures, section

HERE = Path(__file__).with_suffix("")
FIGURES = ROOT / ".cache/serve.json"

NAME, ADDRESS = "bench-serve", "127.0.20.1"
CORES = os.cpu_count()
# What our role makes of the cores of this machine (roles/gunicorn/defaults/main.yml).
OURS = Shape(2 * CORES + 1, 2)
NOT_NEEDED = {"site_backup": False, "site_monitoring": False}
ON_HOST = ("agent.py", "bare.py", "bench_app.py", "load.lua", "query_loop.py")

# What our role did until this was measured: each worker looked for pools itself.
SEARCH_IN_WORKERS = """
gc.freeze = lambda: None

def post_fork(server, worker):
    for thing in gc.get_objects():
        if any(thing is engine for engine in engines):
            thing.dispose(close=False)
"""

QUICK_SECONDS = 0.4
WARM_UP_SECONDS = 0.4
SETTLE_SECONDS = 3


class Server(NamedTuple):
    """What is started, and which load it gets."""

    order: dict
    cells: list[Cell]
    cores: str = ""  # where it runs, with PostgreSQL and nginx; without it: everywhere


def release(shape: Shape, cells: list[Cell], cores: str = "", **more) -> Server:
    """Describe a release that differs from ours in some settings."""
    settings = shape.settings() | more.pop("settings", {})
    return Server({"kind": "release", "settings": settings, **more}, cells, cores)


SLEEPS = [Cell("sleep", 8), Cell("sleep", 64)]
KEY_CELLS = [SELECT_8, SELECT_64, Cell("insert", 8), *SLEEPS]
KEY_SHAPES = [
    OURS,
    Shape(CORES, 2),
    Shape(CORES, 4),
    Shape(CORES, 8),
    Shape(OURS.workers, 4),
    Shape(CORES, 1),
    Shape(OURS.workers, 1),
]


def servers(quick: bool) -> dict[str, Server]:
    """Return all servers by name; the page asks for them by these names."""
    grid = [Cell(endpoint, clients) for endpoint in ENDPOINTS for clients in CLIENTS]
    found = {
        "dev": Server(
            {"kind": "command", "command": "flask --app bench_app:app run --port {port}"}, grid
        ),
        "tutorial": Server(
            {
                "kind": "command",
                "command": "gunicorn --workers 4 --threads 2 --bind 127.0.0.1:{port} bench_app:app",
            },
            grid,
        ),
        "ours": Server({"kind": "unit"}, grid),
        "dev one": Server(
            {
                "kind": "command",
                "command": "flask --app bench_app:app run --without-threads --port {port}",
            },
            [Cell("sleep", 8)],
        ),
    }
    found |= {
        str(shape): release(shape, KEY_CELLS) for shape in (KEY_SHAPES[:3] if quick else KEY_SHAPES)
    }
    for workers in sweep(CORES, quick):
        shape = Shape(workers, 2)
        found.setdefault(str(shape), release(shape, [SELECT_64]))
    both = [SELECT_8, SELECT_64]
    found |= {
        "gthread": release(OURS, [*SLEEPS, SELECT_64], settings={"worker_class": "gthread"}),
        "source": release(OURS, both, psycopg2="source"),
        "direct": release(OURS, [Cell("live", 64), *both], direct=True),
        "tcp": release(OURS, both, tcp_database=True),
        "unshared": release(OURS, both, settings={"preload_app": False}),
        "unfrozen": release(OURS, both, lines=["gc.freeze = lambda: None"]),
        "searched": release(OURS, both, lines=SEARCH_IN_WORKERS.splitlines()),
        "pool 1": release(OURS, both, environment={"DATABASE_POOL_SIZE": "1"}),
        "pool 4": release(OURS, both, environment={"DATABASE_POOL_SIZE": "4"}),
        "no pool": release(OURS, both, environment={"BENCH_POOL": "none"}),
        "bare": release(
            OURS, [Cell("bare", 64)], path="/", settings={"wsgi_app": "bare:app"}, direct=True
        ),
    }
    if CORES > 1:
        for shape in (Shape(workers, 2) for workers in sweep(1, quick)):
            found[f"{shape}, 1 core"] = release(shape, [SELECT_64], cores="0")
    return found


def sweep(cores: int, quick: bool) -> list[int]:
    """Return the numbers of workers to try."""
    return [1, 2 * cores + 1] if quick else list(range(1, 2 * cores + 6))


# -- the host


class Agent:
    """The program on the host that does what it is told; see serve/agent.py."""

    def __init__(self, process: subprocess.Popen, log: Path):
        self.process, self.log = process, log

    def __call__(self, do: str, **order):
        """Give an order and return the answer."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": self.log.read_text()}
        if "error" in reply:
            raise BenchmarkError(f"{do} {order}: {reply['error']}")
        return reply["answer"]


@contextlib.contextmanager
def agent_on_host(work: Path) -> Iterator[Agent]:
    """Start the agent; it ends with its input."""
    # Another user's smaps_rollup is for those who may trace it, which a container's root may not.
    command = [ROOT / "molecule/hosts/podman", "exec", "--interactive", "--privileged"]
    command += [f"slipway-{NAME}", "python3", "/srv/webapp/current/source/agent.py"]
    log = work / "agent.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Agent(process, log)
        finally:
            process.stdin.close()


def provision(host: dict, work: Path) -> None:
    """Make the host what a user has; the release before the last has psycopg2 from source."""
    hosts, source = inventory(work, host), work / "app"
    shutil.copytree(ROOT / "app", source, ignore=lambda *_: NOT_SOURCE)
    for name in ON_HOST:
        shutil.copy(HERE / name, source)
    variables = NOT_NEEDED | {
        "site_app_source": str(source),
        "gunicorn_application": "bench_app:app",
    }
    compiled = variables | {"flask_app_psycopg2": "source"}
    say(f"site.yml: {play(ROOT / 'site.yml', hosts, compiled, work / 'site.log'):.0f} s")
    deploy = ROOT / "playbooks/deploy-application.yml"
    say(f"the same with psycopg2-binary: {play(deploy, hosts, variables, work / 'play.log'):.0f} s")
    install = "apt-get install --quiet --quiet --yes --no-install-recommends wrk"
    run(ssh(host, f"DEBIAN_FRONTEND=noninteractive {install}"), work / "apt.log")


# -- the rounds


def measure_server(agent: Agent, server: Server, seconds: tuple[float, float]) -> dict:
    """Start a server, warm it up, and put one load after another on it."""
    agent("pin", cores=server.cores)
    begun = agent("start", server=server.order)
    warm_up = "bare" if server.order.get("path") else "select"
    agent("load", endpoint=warm_up, clients=CLIENTS[-2], seconds=WARM_UP_SECONDS)
    found = {}
    for cell in server.cells:
        lasts = seconds[cell.endpoint == "sleep" and cell.clients > CLIENTS[1]]
        asked = agent("load", endpoint=cell.endpoint, clients=cell.clients, seconds=lasts)
        found[cell] = Sample(**asked, limit=lasts)
        if cell != server.cells[-1]:
            # The server still works for the clients that have gone.
            time.sleep(min(cell.clients / max(found[cell].rate, 1), SETTLE_SECONDS))
    return {"cold": begun["memory"]["app"], "ready": begun["ready"], "cells": found}


def measure_limits(agent: Agent, figures: Figures, seconds: float) -> None:
    """Measure what no setting of ours can pass, with nothing of ours running."""
    agent("stop")
    agent("pin", cores="")
    nginx = agent("load", endpoint="static", clients=CLIENTS[-2], seconds=seconds)
    figures.add("static", "static", CLIENTS[-2], Sample(**nginx, limit=seconds))
    figures.pgbench.append(agent("pgbench", clients=8, seconds=math.ceil(seconds))["rate"])
    for name, options in {
        "loop binary": {"psycopg2": "binary"},
        "loop source": {"psycopg2": "source"},
        "loop tcp": {"psycopg2": "binary", "tcp": True},
    }.items():
        figures.loops[name].append(agent("query_loop", seconds=seconds, **options))


def measure(rounds: int, quick: bool) -> Figures:
    """Make the host, and measure everything in every round.

    :raises BenchmarkError: where something fails.
    """
    figures = Figures(ours=OURS, key_shapes=KEY_SHAPES, cores=CORES, rounds=rounds)
    seconds = (QUICK_SECONDS, QUICK_SECONDS) if quick else (SECONDS, LONG_SECONDS)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        fresh_host(NAME, ADDRESS) as host,
    ):
        provision(host, Path(folder))
        began = time.monotonic()
        with agent_on_host(Path(folder)) as agent:
            figures.versions = agent("prepare")
            say(figures.versions)
            for number in range(1, rounds + 1):
                label = f"round {number} of {rounds}"
                for name, server in servers(quick).items():
                    result = measure_server(agent, server, seconds)
                    figures.cold[name].append(result["cold"])
                    figures.ready[name].append(result["ready"])
                    for cell, sample in result["cells"].items():
                        figures.add(name, *cell, sample)
                        say(f"{label}, {time.monotonic() - began:.0f} s: {name}, {cell}: {sample}")
                measure_limits(agent, figures, seconds[0])
                say(f"{label}: limits")
                agent("start", server={"kind": "unit"})
                for whom, lasts in (("worker", 2), ("master", 5)):
                    figures.kills[whom].append(agent("kill", whom=whom, seconds=lasts))
                    say(f"{label}: {whom} killed: {figures.kills[whom][-1]}")
                agent("stop")
    return figures


def measured(rounds: int, machine: str, write: bool) -> str:
    """Measure, draw the pictures, and return our section of the page."""
    figures = measure(rounds, quick=not write)
    if write:
        FIGURES.parent.mkdir(exist_ok=True)
        figures.save(FIGURES, machine)
    return show(figures, machine, write)


def show(figures: Figures, machine: str, write: bool = True) -> str:
    """Draw the pictures, and return our section of the page."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, data in pictures(figures).items():
            drawn = Path(folder, PICTURES[name].name)
            draw(HERE / "plot.py", {"picture": name, **data}, drawn)
            if write:
                shutil.copyfile(drawn, PICTURES[name])
    return section(figures, machine)


if __name__ == "__main__":
    main("serve", __doc__, measured, again=lambda: show(*Figures.load(FIGURES)), rounds=3)
