"""On the host: start servers, put load on them, and count. Root, and Python's own library only.

Reads orders, one JSON object a line: {"do": NAME, …}, where NAME is a function in ORDERS. Answers
each with a line, {"answer": …} or {"error": …}, and ends with its input.

A server that is no tutorial is a release like any other: the folder /srv/webapp/releases/bench with
the code of the release that serves, started by the same unit, reached by nginx the same way.
"""

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

USERS = {"app": "webapp", "PostgreSQL": "postgres", "nginx": "www-data"}
ROOT = Path("/srv/webapp")
CURRENT, BENCH = ROOT / "current", ROOT / "releases/bench"
SERVING = CURRENT.resolve()
DROP_IN = Path("/etc/systemd/system/webapp@bench.service.d/bench.conf")
PORT = 8001
PASSWORD = secrets.token_hex(16)
TCP_DATABASE = f"webapp:{PASSWORD}@127.0.0.1/webapp"

START_SECONDS, CALM_SECONDS, WATCH_SECONDS = 30, 0.15, 0.005
# Where SQLAlchemy's pool is nobody's choice, it has the sizes that SQLAlchemy gives it.
USUAL_POOL = {
    "DATABASE_POOL_SIZE": "5",
    "DATABASE_MAX_OVERFLOW": "10",
    "DATABASE_POOL_TIMEOUT_SECONDS": "30",
}


ASK_VERSIONS = """
from importlib.metadata import version
names = ("Flask", "Werkzeug", "SQLAlchemy", "psycopg2-binary", "gunicorn")
print(*(f"{name} {version(name)}" for name in names), sep=", ")
"""


class State:
    """What runs now."""

    unit, url, cores = "", "", ""


def run(*command: str, **options) -> str:
    """Run a command to its end and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def virtualenv(psycopg2: str) -> Path:
    """Return the virtualenv in which psycopg2 was compiled (source), or came compiled (binary)."""
    for folder in (ROOT / "releases").glob("2*/venv"):
        has_own_libpq = any(folder.glob("lib/python3*/site-packages/psycopg2_binary.libs"))
        if has_own_libpq == (psycopg2 == "binary"):
            return folder
    raise RuntimeError(f"no release has psycopg2 from {psycopg2}")


# -- what the host has


def prepare() -> str:
    """Fill the tables, let the application in over TCP too, and return the versions."""
    psql = ["runuser", "--user", "postgres", "--", "psql", "--quiet", "--set=ON_ERROR_STOP=1"]
    fill = (
        "TRUNCATE users RESTART IDENTITY;"
        "INSERT INTO users (name) SELECT 'User ' || n FROM generate_series(1, 10000) AS n"
    )
    run(*psql, "--dbname=webapp", f"--command={fill}")
    run(*psql, "--dbname=webapp", "--command=VACUUM ANALYZE users")
    run(*psql, "--dbname=webapp", f"--command=ALTER ROLE webapp PASSWORD '{PASSWORD}'")
    run(*psql, "--command=CREATE DATABASE pgbench")
    run(*pgbench_command("--initialize", "--quiet"), cwd="/")
    python = run(str(virtualenv("binary") / "bin/python"), "-c", ASK_VERSIONS).strip()
    debian = run("dpkg-query", "--show", "--showformat=${Version}\n", "nginx", "wrk").split()
    postgresql = run("runuser", "--user", "postgres", "--", "psql", "-tAc", "SHOW server_version")
    return (
        f"Python {sys.version.split()[0]}, {python}, PostgreSQL {postgresql.split()[0]}, "
        f"nginx {debian[0].partition('-')[0]}, wrk {debian[1].partition('-')[0]}"
    )


def processes(user: str) -> list[Path]:
    """Return the folders in /proc of all processes of a user."""
    number, found = pwd.getpwnam(user).pw_uid, []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if process.stat().st_uid == number:
                found.append(process)
    return found


def read(path: Path) -> str:
    """Return what a file in /proc says; nothing if the process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu() -> dict[str, float]:
    """Return the seconds of processor time of each part, its ended children included."""
    seconds = dict.fromkeys(USERS, 0.0)
    for part, user in USERS.items():
        for process in processes(user):
            fields = read(process / "stat").rpartition(")")[2].split()
            seconds[part] += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def memory() -> dict[str, float]:
    """Return the memory of each part in MiB; what processes share is counted once (PSS)."""
    kib = dict.fromkeys(USERS, 0)
    for part, user in USERS.items():
        for process in processes(user):
            found = re.search(r"^Pss: +(\d+)", read(process / "smaps_rollup"), re.MULTILINE)
            kib[part] += int(found[1]) if found else 0
    return {part: number / 1024 for part, number in kib.items()}


def pin(cores: str) -> None:
    """Let PostgreSQL, nginx and what is started from now on use these cores only ("0", "0,1")."""
    State.cores = cores
    allowed = set(map(int, cores.split(","))) if cores else set(range(os.cpu_count()))
    masters = [Path("/proc", pid) for pid in run("pgrep", "--exact", "nginx").split()]
    for process in [*processes("postgres"), *processes("www-data"), *masters]:
        for task in (process / "task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), allowed)


# -- servers


def start(server: dict) -> dict:
    """Start a server in the place of the one before; return its seconds to calm, and its memory."""
    stop()
    began = time.monotonic()
    {"unit": start_unit, "release": start_release, "command": start_command}[server["kind"]](server)
    while not answers(State.url + server.get("path", "/health/live")):
        if time.monotonic() - began > START_SECONDS:
            journal = run("journalctl", "--unit", State.unit, "--lines=20", "--output=cat")
            raise RuntimeError(f"{State.unit} does not answer:\n{journal}")
        time.sleep(0.02)
    ready = time.monotonic() - began
    busy = True  # Workers that were not forked from a loaded application are loading it still.
    while busy and time.monotonic() - began < START_SECONDS:
        before = cpu()["app"]
        time.sleep(CALM_SECONDS)
        busy = cpu()["app"] - before > 0.1 * CALM_SECONDS
    return {"ready": ready, "memory": memory()}


def start_unit(_server: dict) -> None:
    """Start what site.yml has made, as it is."""
    point(SERVING)
    State.unit, State.url = f"webapp@{SERVING.name}.service", "http://127.0.0.1"
    run("systemctl", "start", State.unit)


def start_release(server: dict) -> None:
    """Start a release that differs from the serving one in some settings."""
    shutil.rmtree(BENCH, ignore_errors=True)
    BENCH.mkdir(mode=0o755)
    (BENCH / "source").symlink_to(SERVING / "source")
    (BENCH / "venv").symlink_to(virtualenv(server.get("psycopg2", "binary")))
    (BENCH / "gunicorn.sock").symlink_to("/run/webapp/bench.sock")
    pool = {"DATABASE_POOL_SIZE": str(server["settings"]["threads"])}
    variables = pool | server.get("environment", {}) | {"RELEASE_ID": "bench"}
    if server.get("tcp_database"):
        variables["DATABASE_URL"] = f"postgresql+psycopg2://{TCP_DATABASE}"
    lines = [f'{name}="{value}"\n' for name, value in variables.items()]
    (BENCH / "environment").write_text((SERVING / "environment").read_text() + "".join(lines))
    (BENCH / "environment").chmod(0o640)
    settings = [f"{name} = {value!r}\n" for name, value in server["settings"].items()]
    if server.get("direct"):
        settings.append(f'bind.append("127.0.0.1:{PORT}")\n')
    settings += [f"{line}\n" for line in server.get("lines", [])]
    text = (SERVING / "gunicorn.conf.py").read_text() + "\n" + "".join(settings)
    (BENCH / "gunicorn.conf.py").write_text(text)
    drop_in = f"[Service]\nCPUAffinity={State.cores}\nMemoryMax=infinity\nTasksMax=infinity\n"
    if not DROP_IN.exists() or DROP_IN.read_text() != drop_in:
        DROP_IN.parent.mkdir(exist_ok=True)
        DROP_IN.write_text(drop_in)
        run("systemctl", "daemon-reload")
    point(BENCH)
    State.unit = "webapp@bench.service"
    State.url = f"http://127.0.0.1:{PORT}" if server.get("direct") else "http://127.0.0.1"
    run("systemctl", "start", State.unit)


def start_command(server: dict) -> None:
    """Start a command as the application's user, without our unit and its sandbox."""
    State.unit, State.url = "bench.service", f"http://127.0.0.1:{PORT}"
    options = [f"--property=EnvironmentFile={SERVING}/environment", "--property=User=webapp"]
    options += [f"--property=WorkingDirectory={SERVING}/source", "--property=KillMode=mixed"]
    options += [f"--setenv=PATH={SERVING}/venv/bin:/usr/bin:/bin"]
    options += [f"--setenv={name}={value}" for name, value in USUAL_POOL.items()]
    # What it writes goes to a file, as with nohup: the journal would cost it more.
    options += ["--property=StandardOutput=append:/var/tmp/bench.log"]
    options += ["--property=StandardError=append:/var/tmp/bench.log"]
    program, *arguments = server["command"].format(port=PORT).split()
    command = ["systemd-run", "--quiet", "--collect", "--unit=bench", *options]
    run(*command, f"{SERVING}/venv/bin/{program}", *arguments)


def point(release: Path) -> None:
    """Make nginx ask a release."""
    new = ROOT / ".bench"
    new.unlink(missing_ok=True)
    new.symlink_to(release)
    new.rename(CURRENT)


def stop() -> None:
    """Stop what runs, at once: requests that nobody waits for any more would take their time."""
    unit = State.unit or f"webapp@{SERVING.name}.service"
    for command in ("kill --signal=KILL", "stop", "reset-failed"):
        subprocess.run(["systemctl", *command.split(), unit], capture_output=True)
    State.unit = ""


def answers(url: str) -> bool:
    """Ask once whether there is a 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # always http://
            return answer.status == 200
    except (OSError, urllib.error.HTTPError):
        return False


# -- load


def wrk(endpoint: str, clients: int, seconds: float) -> list[str]:
    """Return the command that puts load on what runs, on a core of its own if there is one left."""
    others = [str(n) for n in range(os.cpu_count()) if str(n) not in State.cores.split(",")]
    taskset = ["taskset", "--cpu-list", ",".join(others)] if State.cores and others else []
    # wrk counts in whole seconds; on SIGINT it ends at once and reports.
    limit = ["timeout", "--signal=INT", str(seconds)]
    program = ["wrk", "--threads=1", f"--connections={clients}", "--duration=60s"]
    script = ["--timeout=30s", f"--script={SERVING}/source/load.lua"]
    return [*taskset, *limit, *program, *script, State.url or "http://127.0.0.1", "--", endpoint]


def report(output: str) -> dict:
    """Return what load.lua has printed."""
    lines = [line for line in output.splitlines() if line.startswith('{"requests"')]
    if len(lines) != 1:
        raise RuntimeError(f"wrk reports nothing: {output}")
    return json.loads(lines[0])


def load(endpoint: str, clients: int, seconds: float) -> dict:
    """Put load on what runs; return its figures, and what they cost in each part."""
    before = cpu()
    done = subprocess.run(
        wrk(endpoint, clients, seconds), capture_output=True, text=True, timeout=60
    )
    after = cpu()
    cost = {part: after[part] - before[part] for part in USERS}
    return report(done.stdout + done.stderr) | {"cpu": cost, "memory": memory()}


def query_loop(psycopg2: str, seconds: float, tcp: bool = False) -> dict:
    """Ask PostgreSQL as fast as one process can."""
    connection = "postgresql://" + (TCP_DATABASE if tcp else "/webapp?host=/run/postgresql")
    loop = f"{SERVING}/source/query_loop.py"
    python = str(virtualenv(psycopg2) / "bin/python")
    command = ["runuser", "--user", "webapp", "--", python, loop, connection, str(seconds)]
    return json.loads(run(*command, cwd="/"))


def pgbench_command(*arguments: str) -> list[str]:
    """Return the command that runs pgbench, in the version of the server."""
    program = max(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return ["runuser", "--user", "postgres", "--", str(program), *arguments, "pgbench"]


def pgbench(clients: int, seconds: int) -> dict:
    """Ask PostgreSQL as fast as its own program can."""
    command = ["--select-only", "--no-vacuum", f"--client={clients}", f"--time={seconds}"]
    said = run(*pgbench_command(*command), cwd="/")
    return {"rate": float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)[1])}


# -- faults


def main_process() -> int:
    """Return the master of the unit that runs; 0 while there is none."""
    return int(run("systemctl", "show", "--property=MainPID", "--value", State.unit))


def children(process: int) -> set[int]:
    """Return the workers of a master."""
    return {
        int(child.name)
        for child in processes(USERS["app"])
        if read(child / "stat").rpartition(")")[2].split()[1:2] == [str(process)]
    }


def kill(whom: str, seconds: float) -> dict:
    """Kill a worker, or the master, under the load of 8 clients.

    Returns the seconds until all workers live again, and the longest time without a 2xx answer.
    """
    master = main_process()
    workers, moments, over = children(master), [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            if answers(f"{State.url}/health/live"):
                moments.append(time.monotonic())
            time.sleep(WATCH_SECONDS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with subprocess.Popen(
        wrk("select", 8, seconds), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as clients:
        time.sleep(seconds / 4)
        victim = min(workers) if whom == "worker" else master
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        while True:
            now = main_process() if whom == "master" else master
            alive = children(now) if now else set()
            if now != victim and victim not in alive and len(alive) == len(workers):
                break
            if time.monotonic() - killed > START_SECONDS:
                raise RuntimeError(f"after {START_SECONDS} s not all workers are back")
            time.sleep(WATCH_SECONDS)
        whole = time.monotonic() - killed
        figures = report(clients.communicate()[0])
    over.set()
    watcher.join()
    after = [moment for moment in moments if moment > killed]
    gaps = [late - early for early, late in zip([killed, *after], after, strict=False)]
    failed = figures["refused"] + figures["broken"]
    return {"whole": whole, "gap": max(gaps), "failed": failed, "requests": figures["requests"]}


ORDERS = {
    function.__name__: function
    for function in (prepare, pin, start, stop, load, query_loop, pgbench, kill)
}


def main() -> None:
    """Obey until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            reply = {"answer": ORDERS[order.pop("do")](**order)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)
    if State.unit:
        stop()


if __name__ == "__main__":
    main()
