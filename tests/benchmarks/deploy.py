#!/usr/bin/env python3
"""What users notice of a deploy: seconds to the switch, memory, and the answers under load.

On one fresh host made by site.yml: deploys and rollbacks against the clock, then the same load
while new code comes in different ways, one after another. The figures go to docs/benchmarks.md,
and the answers around each event to docs/deploy.svg; without `make`:

    .venv/bin/python tests/benchmarks/deploy.py [--rounds N | --quick]
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from common import (
    LIMIT_SECONDS,
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
from deploy_page import PICTURE, Answer, Event, Figures, Memory, Timing, picture_rows, section

sys.path.append(str(ROOT / "molecule/deploy/tests"))

from load import Load

HERE = Path(__file__).with_suffix("")

NAME, ADDRESS = "bench-deploy", "127.0.14.31"
DEPLOY, ROLLBACK = "playbooks/deploy-application.yml", "playbooks/rollback-application.yml"
# The load runs so long before a command and after its end.
LEAD_SECONDS, SETTLE_SECONDS = 2, 6
LOW_MEMORY = {"gunicorn_generations": 1}


class Server:
    """The host, and what a user does with it; each change of the code is one file."""

    def __init__(self, host: dict, work: Path):
        self.host, self.work = host, work
        self.hosts, self.source, self.changes = inventory(work, host), work / "app", 0
        shutil.copytree(ROOT / "app", self.source, ignore=lambda *_: NOT_SOURCE)

    def play(self, playbook: str, **variables) -> float:
        """Run a playbook of the project; return its seconds."""
        variables["site_app_source"] = str(self.source)
        return play(ROOT / playbook, self.hosts, variables, self.work / "play.log")

    def change(self) -> None:
        """Change the code: one file, one line."""
        self.changes += 1
        with (self.source / "webapp/version.py").open("a") as file:
            file.write(f"# Change {self.changes}\n")

    def script(self, path: Path) -> None:
        """Run a shell script on the host."""
        run(ssh(self.host, "bash -s"), self.work / "script.log", stdin=path)

    def ask(self, command: str) -> str:
        """Run a shell command on the host and return what it prints."""
        done = subprocess.run(
            ssh(self.host, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"{command} ended with {done.returncode}\n{done.stderr}")
        return done.stdout.strip()

    def instance(self) -> str:
        """Return the unit of the release that serves."""
        return f"webapp@{self.ask('basename $(readlink /srv/webapp/current)')}.service"

    def processes(self, unit: str) -> list[str]:
        """Return the process of a unit, and its children."""
        main = self.ask(f"systemctl show --property=MainPID --value {unit}")
        return [main, *self.ask(f"pgrep --parent {main}").split()]


# -- one after another: seconds and memory


def switched(load: Load, began: float) -> float:
    """Return the seconds from the start of the command to the first answer of another release."""
    good = [answer for answer in load.watcher.answers if answer.status == 200]
    before = [answer for answer in good if answer.sent < began]
    releases = [json.loads(answer.body)["release"] for answer in good]
    for answer, release in zip(good, releases, strict=True):
        if before and release != releases[0]:
            return answer.sent + answer.seconds - began
    raise BenchmarkError(f"the watcher saw only {set(releases) or 'failures'}")


def timed(server: Server, playbook: str) -> Timing:
    """Run a playbook that switches, with a watcher of /version and without any other load."""
    with Load(ADDRESS, clients=0) as load:
        time.sleep(LEAD_SECONDS)
        began = time.monotonic()
        seconds = server.play(playbook)
        time.sleep(1)
    return Timing(switched(load, began), seconds)


@contextlib.contextmanager
def memory_samples(work: Path) -> Iterator[list[tuple[float, float]]]:
    """Sample the application's memory; the list of times and MiB is complete afterwards."""
    samples, output = [], work / "memory.log"
    # Another user's smaps_rollup is for those who may trace it, which a container's root may not.
    command = [ROOT / "molecule/hosts/podman", "exec", "--interactive", "--privileged"]
    command += [f"slipway-{NAME}", "python3", "-c", (HERE / "memory.py").read_text()]
    command += ["webapp", str(LIMIT_SECONDS)]
    with (
        output.open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield samples
        finally:
            process.stdin.close()  # which ends it, in the container too
    try:
        for line in output.read_text().splitlines():
            moment, mib = map(float, line.split())
            samples.append((moment, mib))
    except ValueError as error:
        raise BenchmarkError(output.read_text()) from error


def weighed(server: Server) -> Memory:
    """Deploy while the application's memory is sampled."""
    with memory_samples(server.work) as samples:
        time.sleep(LEAD_SECONDS)
        began = time.monotonic()
        server.play(DEPLOY)
        ended = time.monotonic()
        time.sleep(LEAD_SECONDS)
    before = [mib for moment, mib in samples if moment < began]
    after = [mib for moment, mib in samples if moment > ended + LEAD_SECONDS / 2]
    if not before or not after:
        raise BenchmarkError(f"{len(samples)} samples of the memory are too few")
    return Memory(median(before), max(mib for _, mib in samples), median(after))


# -- side by side, under load


def event(server: Server, act: Callable[[], object], name: str = "") -> Event:
    """Do something under load.

    :param name: the site of nginx; without it, the default one.
    """
    server.ask("runuser -u postgres -- psql --quiet webapp --command 'TRUNCATE users'")
    with Load(ADDRESS, host=name) as load:
        time.sleep(LEAD_SECONDS)
        began = time.monotonic()
        act()
        ended = time.monotonic()
        time.sleep(SETTLE_SECONDS)
    answers = [
        Answer(answer.sent - began, answer.seconds, 200 <= answer.status < 300)
        for answer in sorted(load.answers)
    ]
    if not all(answer.is_good for answer in answers if answer.since > answers[-1].since - 1):
        raise BenchmarkError(f"it still fails {SETTLE_SECONDS} s after the command has ended")
    switch = switched(load, began) if len(load.releases()) > 1 else None
    return Event(answers, ended - began, switch)


def nothing(server: Server) -> Event:
    """Do nothing, for as long as a restart takes: the control."""
    return event(server, lambda: time.sleep(2))


def deploy(server: Server) -> Event:
    """Deploy as we do."""
    server.change()
    return must_switch(event(server, lambda: server.play(DEPLOY)))


def deploy_low_memory(server: Server) -> Event:
    """Deploy as we do on small machines; to and from that mode without load."""
    server.play(DEPLOY, **LOW_MEMORY)
    server.change()
    seen = must_switch(event(server, lambda: server.play(DEPLOY, **LOW_MEMORY)))
    server.play(DEPLOY)
    return seen


def must_switch(seen: Event) -> Event:
    """Refuse an event in which the release did not change."""
    if seen.switch is None:
        raise BenchmarkError("nothing was deployed")
    return seen


def restart(server: Server) -> Event:
    """Restart the instance that serves."""
    return restarted(server, server.instance(), "restart", "")


def reload_tutorial(server: Server) -> Event:
    """Send HUP to the gunicorn of the tutorial."""
    return restarted(server, "tutorial.service", "reload", "tutorial")


def restart_tutorial(server: Server) -> Event:
    """Restart the gunicorn of the tutorial, while systemd keeps its socket."""
    return restarted(server, "tutorial.service", "restart", "tutorial")


def restarted(server: Server, unit: str, verb: str, name: str) -> Event:
    """Restart or reload a unit under load; refuse where its processes are not new."""
    before = server.processes(unit)
    seen = event(server, lambda: server.ask(f"systemctl {verb} {unit}"), name)
    after = server.processes(unit)
    kept = set(before) & set(after)
    if kept != ({before[0]} if verb == "reload" else set()) or len(before) != len(after):
        raise BenchmarkError(f"{verb} made of the processes {before}: {after}")
    return seen


METHODS = {
    "nothing": nothing,
    "deploy": deploy,
    "low memory": deploy_low_memory,
    "restart": restart,
    "socket": restart_tutorial,
    "HUP": reload_tutorial,
}


def measure(rounds: int) -> Figures:
    """Make the host, and measure everything in every round.

    :raises BenchmarkError: where something fails, or did not happen.
    """
    figures = Figures([], [], [], {method: [] for method in METHODS})
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        fresh_host(NAME, ADDRESS) as host,
    ):
        server = Server(host, Path(folder))
        say(f"site.yml: {server.play('site.yml'):.1f} s")
        server.change()
        say(f"first deploy, not counted: {server.play(DEPLOY):.1f} s")
        for number in range(1, rounds + 1):
            measure_alone(server, figures, f"round {number} of {rounds}")
        server.script(HERE / "tutorial.sh")
        for number in range(1, rounds + 1):
            for name, act in METHODS.items():
                try:
                    seen = act(server)
                except BenchmarkError as error:
                    raise BenchmarkError(f"round {number}, {name}: {error}") from error
                figures.events[name].append(seen)
                say(f"round {number} of {rounds}: {name:10} {seen}")
    return figures


def measure_alone(server: Server, figures: Figures, label: str) -> None:
    """Measure a deploy, a rollback, and a deploy with its memory, one after another."""
    server.change()
    figures.deploys.append(timed(server, DEPLOY))
    timing = label + ": {} {:.1f} s to the switch, {:.1f} s in all"
    say(timing.format("deploy", *figures.deploys[-1]))
    figures.rollbacks.append(timed(server, ROLLBACK))
    say(timing.format("rollback", *figures.rollbacks[-1]))
    server.change()
    figures.memory.append(weighed(server))
    say("{}: memory {:.0f} MiB, then {:.0f}, then {:.0f}".format(label, *figures.memory[-1]))


def measured(rounds: int, machine: str, write: bool) -> str:
    """Measure, draw the picture, and return our section of the page."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        picture = Path(folder, PICTURE.name)
        row = {"title": "", "result": "", "switch": None, "answers": [(0, 1, True), (1, 1, True)]}
        # If its libraries cannot be had, better now than at the end.
        draw(HERE / "plot.py", [row, row], picture)
        figures = measure(rounds)
        draw(HERE / "plot.py", picture_rows(figures.events), picture)
        if write:
            shutil.copyfile(picture, PICTURE)
    return section(figures, machine, SETTLE_SECONDS)


if __name__ == "__main__":
    main("deploy", __doc__, measured)
