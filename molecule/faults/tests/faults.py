"""A fault under load, and what came of it: one row of the table in docs/reliability.md."""

import contextlib
import datetime
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path += [str(Path(__file__).parents[2] / "deploy/tests"), str(Path(__file__).parents[2])]

import runs
from load import Answer, Client, Load, Slow

PROJECT = Path(__file__).parents[3]
HOST = str(PROJECT / "molecule/hosts/host")
# One connection for all questions: what the clock runs for must not wait for ssh.
SSH = ["ssh", "-p", "2222", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
       "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
       "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]  # fmt: skip
CALM_SECONDS = 2  # so long nothing must fail, for a host to be healthy again


class Server:
    """The host that is broken, and the few questions that all tests ask of it."""

    def __init__(self, name: str, address: str, sockets: Path):
        self.name, self.address = name, address
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        key = ["-i", str(cache / "slipway/id_ed25519"), "-o", f"ControlPath={sockets}/%C"]
        self.ssh = [*SSH, *key, f"root@{address}"]

    def run(self, command: str, seconds: float = 120) -> subprocess.CompletedProcess:
        """Run a shell command, whatever comes of it."""
        return subprocess.run(
            [*self.ssh, command],
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    def must(self, command: str, seconds: float = 120) -> str:
        """Run a shell command that has to succeed, and return what it printed."""
        done = self.run(command, seconds)
        if done.returncode != 0:
            raise AssertionError(f"{command}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def sql(self, query: str, database: str = "webapp") -> str:
        """Ask the database."""
        psql = f"cd / && runuser -u postgres -- psql --dbname={database} -qAtX --command"
        return self.must(f'{psql} "{query}"')

    def release(self) -> str:
        """Return the release that serves."""
        return self.must("basename $(readlink /srv/webapp/current)")

    def master(self) -> int:
        """Return the process id of gunicorn's master."""
        unit = f"webapp@{self.release()}"
        return int(self.must(f"systemctl show --property=MainPID --value {unit}"))

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return sorted(map(int, self.must(f"pgrep --parent {self.master()}").split()))

    def boot(self) -> str:
        """Return what tells one boot of the machine from another; "" while nobody answers."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.run("cat /proc/sys/kernel/random/boot_id", 30).stdout.strip()
        return ""

    def cut_power(self) -> None:
        """Take the machine's power away, and give it back."""
        subprocess.run([HOST, "kill", self.name], check=True)
        self.run_no_more()
        # It refuses a host on which a unit failed; here counts what the clients see.
        subprocess.run([HOST, "start", self.name])

    def reboot(self, seconds: float = 900) -> None:
        """Reboot the machine in good order, and wait until it answers."""
        before, deadline = self.boot(), time.monotonic() + seconds
        self.run("systemctl reboot")
        self.run_no_more()
        while self.boot() in ("", before):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not answer {seconds} s after a reboot")
            time.sleep(1)

    def run_no_more(self) -> None:
        """Forget the connection, whose other end is gone."""
        subprocess.run([*self.ssh, "-O", "exit"], capture_output=True)


class Run:
    """A playbook that runs while something happens to its host."""

    def __init__(self, name: str, *arguments: str):
        inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
        settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        self.said: list[str] = []
        self.process = subprocess.Popen(
            ["ansible-playbook", "--inventory", inventory, *arguments, name],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | settings | {"ANSIBLE_FORCE_COLOR": "0"},
        )

    def wait_for(self, text: str) -> None:
        """Wait until it says so."""
        for line in self.process.stdout:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"{text} was never said:\n{''.join(self.said)}")

    def kill(self) -> None:
        """End it as if its computer had lost its power."""
        runs.kill(self.process)

    def result(self) -> tuple[str, int]:
        """Wait for its end; return what it said, and its code."""
        with self.process.stdout as rest:
            self.said += rest
        return "".join(self.said), self.process.wait()


def new_source() -> None:
    """Change the application, so that there is something to release."""
    source = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "app")
    (source / "number.txt").write_text(f"{time.time()}\n")


class Fault:
    """What is done to the server, when, and what the clients noticed."""

    def __init__(self, load: Load, patience: float):
        self.load, self.patience = load, patience
        self.began = self.over = time.monotonic()
        self.lost: set[str] = set()
        self.note = ""

    def begins(self) -> None:
        """Start the clock."""
        self.began = self.over = time.monotonic()

    def ends(self) -> None:
        """Say that only now the server can be healthy again: the cause is gone."""
        self.over = time.monotonic()

    @property
    def answers(self) -> list[Answer]:
        """Return the answers that came after the fault had begun."""
        return [a for a in self.load.answers if a.sent + a.seconds >= self.began]

    @property
    def failed(self) -> list[Answer]:
        """Return those of them that were not 2xx."""
        return [answer for answer in self.answers if not 200 <= answer.status < 300]

    def failed_beyond_a_reload(self) -> list[Answer]:
        """Return what failed besides kept connections, which a reload of nginx closes.

        A client that asks at that moment has no answer, and asks again (RFC 9112, 9.3.1).
        """
        kept = sum(client.keep_alive for client in self.load.clients)
        closed = [a for a in self.failed if a.body.startswith(b"RemoteDisconnected")]
        return self.failed if len(closed) > kept else [a for a in self.failed if a not in closed]

    @property
    def seconds(self) -> float:
        """Return how long after the end of the cause the last request failed, or waited long."""
        ends = [a.sent + a.seconds for a in [*self.failed, *self.slow]]
        return max([0.0, *(end - self.over for end in ends)])

    @property
    def served(self) -> int:
        """Return how many requests were sent and answered well while the cause lasted."""
        return sum(
            200 <= a.status < 300 and self.began < a.sent and a.sent + a.seconds < self.over
            for a in self.answers
        )

    @property
    def slow(self) -> list[Answer]:
        """Return the requests that were answered well, but late."""
        return [a for a in self.answers if 200 <= a.status < 300 and a.seconds > self.patience]

    @property
    def acknowledged(self) -> set[str]:
        """Return the names of the users of whom a client was told that they are stored."""
        created = [a for a in self.load.answers if a.path == "/users" and a.status == 201]
        return {json.loads(answer.body)["name"] for answer in created}

    def saw(self) -> str:
        """Say what the users saw, in their words."""
        kinds = Counter(a.status or "no answer" for a in self.failed)
        seen = [f"{number} times {kind}" for kind, number in sorted(kinds.items(), key=str)]
        if self.slow:
            seen.append(f"{len(self.slow)} waited up to {max(a.seconds for a in self.slow):.1f} s")
        return ", ".join(seen) or "nothing"

    def wait_until_calm(self, seconds: float) -> None:
        """Wait until all clients are answered well again, for at most so long."""
        deadline = time.monotonic() + seconds
        clients = [*self.load.clients, self.load.watcher]
        while time.monotonic() < deadline:
            time.sleep(0.2)
            since = time.monotonic() - max(CALM_SECONDS, self.patience)
            recent = [[a for a in c.answers if a.sent + a.seconds > since] for c in clients]
            late = [answer for answers in recent for answer in answers]
            if (
                since > self.over
                and all(recent)  # a client that waits still is none that is served
                and all(200 <= a.status < 300 and a.seconds <= self.patience for a in late)
            ):
                return
        raise AssertionError(f"not healthy within {seconds} s; the last answers: {late[-5:]}")


class Table:
    """The rows so far, which a scenario prints at its end and `make faults` publishes."""

    HEAD = ("fault", "requests failed", "seconds until healthy", "data lost", "what the user saw")

    def __init__(self, scenario: str):
        self.path = PROJECT / ".cache/faults" / f"{scenario}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget all rows."""
        self.path.unlink(missing_ok=True)

    def rows(self) -> dict[str, dict]:
        """Return what was measured, by fault."""
        return json.loads(self.path.read_text())["rows"] if self.path.exists() else {}

    def add(self, name: str, fault: Fault) -> None:
        """Keep the row of a fault."""
        row = {
            "failed": f"{len(fault.failed)} of {len(fault.answers)}",
            "seconds": f"{fault.seconds:.1f}",
            "lost": f"{len(fault.lost)} of {len(fault.acknowledged)}",
            "saw": fault.saw() + (f"; {fault.note}" if fault.note else ""),
        }
        self.put(name, row)

    def put(self, name: str, row: dict) -> None:
        """Keep a row."""
        rows = self.rows() | {name: row}
        kept = {"machine": machine(), "rows": rows}
        self.path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")

    def text(self) -> str:
        """Write the table in Markdown."""
        return table(self.rows())


def table(rows: dict[str, dict]) -> str:
    """Write rows as a table in Markdown."""
    lines = [Table.HEAD, ("---", "---:", "---:", "---:", "---")]
    lines += [(name, row["failed"], row["seconds"], row["lost"], row["saw"])
              for name, row in rows.items()]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Describe the machine that was measured on, and when."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    today = datetime.datetime.now(datetime.UTC).date()
    load = f"load average {os.getloadavg()[1]:.0f}"
    return f"{cpu[1] if cpu else os.uname().machine}, {os.cpu_count()} vCPU, {today}, {load}"


def requests(token: str, names: itertools.count) -> tuple:
    """Return what the clients ask for: lists, the version, and users with a name of their own."""

    def user() -> str:
        return json.dumps({"name": f"{token}-{next(names)}"})

    return (("GET", "/users?per_page=5", None), ("GET", "/version", None), ("POST", "/users", user))


def slow_post(address: str, path: str) -> Slow:
    """Begin a request that nginx sends only once: a GET over a kept connection it tries again."""
    client = Client(address, {}, [], False, None)
    return Slow(lambda: client.ask("POST", path, "{}"))


@contextlib.contextmanager
def fault_under_load(
    server: Server,
    name: str,
    results: Table,
    within: float = 60,
    patience: float = 1,
    clients: int = 4,
) -> Iterator[Fault]:
    """Put load on the server, let the body break it, and see that it heals and forgot nothing.

    :param within: so many seconds after the body the server must be healthy by itself.
    :param patience: an answer that takes longer, in seconds, is worth telling.
    :param clients: so many ask at once, besides the one that watches.
    """
    token, names = f"t{time.time_ns():x}", itertools.count()
    with Load(server.address, requests=requests(token, names), clients=clients) as load:
        time.sleep(1)
        if load.failed():
            raise AssertionError(f"already before the fault: {load.failed()[:3]}")
        fault = Fault(load, patience)
        yield fault
        fault.wait_until_calm(within)
    stored = set(server.sql("SELECT name FROM users").split())
    fault.lost = fault.acknowledged - stored
    results.add(name, fault)
    print(f"{name}: {json.dumps(results.rows()[name], ensure_ascii=False)}")
    if fault.lost or not fault.acknowledged:
        raise AssertionError(f"acknowledged and lost: {sorted(fault.lost)}")
