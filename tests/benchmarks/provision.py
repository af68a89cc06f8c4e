#!/usr/bin/env python3
"""How long from a fresh host to the first answer: a plain script, site.yml, a naive playbook.

Every run gets a fresh container, reached over ssh. The clock runs from the start of the command to
the first 200 that nginx gives for a page that asks PostgreSQL. The playbooks then run once more.
The figures go to docs/benchmarks.md; without `make`:

    .venv/bin/python tests/benchmarks/provision.py [--rounds N | --quick]
"""

import argparse
import contextlib
import datetime
import difflib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).with_suffix("")
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- provision:begin -->", "<!-- provision:end -->"
COMMAND = "make bench-provision"

HOST = ROOT / "molecule/hosts/host"
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
CERTIFICATES = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
NOT_SOURCE = {".git", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__", "instance"}
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

ADDRESSES = {"floor": "127.0.14.11", "site": "127.0.14.12", "naive": "127.0.14.13"}
TITLES = {
    "floor": "plain shell script (the floor)",
    "site": "`site.yml`",
    "naive": "naive playbook",
}
LIMIT_SECONDS = 600
POLL_SECONDS = 0.1


class BenchmarkError(Exception):
    """A run that gives no figure; its text says why."""


class Play(NamedTuple):
    """What one ansible-playbook said of itself."""

    tasks: int
    changed: int
    roles: dict[str, float]


class Result(NamedTuple):
    """The figures of one variant in one round; a script has no second run."""

    first: float
    first_play: Play | None = None
    second: float | None = None
    second_play: Play | None = None


def say(message: str) -> None:
    """Show progress."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def fresh_host(name: str, address: str):
    """Make a fresh container, give how to reach it, and remove it whatever happens."""
    # A session of its own, so that Ctrl-C does not also stop the removal.
    command = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    try:
        subprocess.run([HOST, "destroy", name], check=True, **command)
        create = [HOST, "create", name, "--suite", "bookworm", "--address", address]
        yield json.loads(subprocess.run(create, check=True, **command).stdout)
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(error.stderr.decode()) from error
    finally:
        subprocess.run([HOST, "destroy", name], check=False, **command)


def ssh(host: dict, remote: str) -> list[str]:
    """Return the ssh command that runs something on the host."""
    options = [*SSH_OPTIONS.split(), "-i", host["identity_file"], "-p", str(host["port"])]
    return ["ssh", *options, f"{host['user']}@{host['address']}", remote]


def pack(archive: Path, folders: dict[str, Path], files: dict[str, Path]) -> Path:
    """Pack folders (without what is no source) and files under the given names."""

    def is_source(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return None if Path(member.name).name in NOT_SOURCE else member

    with tarfile.open(archive, "w:gz") as tar:
        for name, path in {**folders, **files}.items():
            tar.add(path, name, filter=is_source)
    return archive


def inventory(work: Path, host: dict) -> Path:
    """Write an inventory with the host in every group, as inventory/demo has it."""
    folder = work / "inventory"
    folder.mkdir()
    (folder / "group_vars").symlink_to(ROOT / "inventory/group_vars")
    variables = {
        "ansible_host": host["address"],
        "ansible_port": host["port"],
        "ansible_user": host["user"],
        "ansible_ssh_private_key_file": host["identity_file"],
        "ansible_ssh_common_args": SSH_OPTIONS,
        "base_ca_certificates": [str(path) for path in CERTIFICATES],
    }
    groups = {group: {"hosts": {"bench": {}}} for group in ("application", "database", "proxy")}
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps({"all": {"hosts": {"bench": variables}, "children": groups}}))
    return hosts


def answers(url: str) -> bool:
    """Ask once whether the service answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # always http://
            return answer.status == 200
    except (OSError, urllib.error.HTTPError):
        return False


def run(command: list, output: Path, url: str = "", stdin: Path | None = None, **options) -> float:
    """Run a command to its end and return its seconds: to the first 200 of `url`, or to its end.

    :raises BenchmarkError: where it fails, takes too long, or the service does not answer after it.
    """
    answered = None
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(output.open("w"))
        source = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=source, stdout=log, stderr=log, start_new_session=True, **options
        )
        stack.callback(end, process)
        while process.poll() is None:
            if time.monotonic() - began > LIMIT_SECONDS:
                raise BenchmarkError(f"still at work after {LIMIT_SECONDS} s\n{tail(output)}")
            if url and answered is None and answers(url):
                answered = time.monotonic()
            time.sleep(POLL_SECONDS)
        ended = time.monotonic()
    if process.returncode != 0:
        raise BenchmarkError(f"ended with {process.returncode}\n{tail(output)}")
    while url and answered is None:
        if answers(url):
            answered = time.monotonic()
        elif time.monotonic() - ended > 30:
            raise BenchmarkError(f"{url} does not answer with 200\n{tail(output)}")
        else:
            time.sleep(POLL_SECONDS)
    return (answered or ended) - began


def end(process: subprocess.Popen) -> None:
    """Stop a command that has not ended, and its children."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, ending)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)


def tail(output: Path) -> str:
    """Return the last lines of a command's output."""
    return "\n".join(output.read_text(errors="replace").splitlines()[-30:])


def read_play(output: Path) -> Play:
    """Read from the output of ansible-playbook what it did; the names of roles hold no dot."""
    text = output.read_text()
    host = re.search(r"^bench +: ok=(\d+) +changed=(\d+)", text, re.MULTILINE)
    if not host:
        raise BenchmarkError(f"no PLAY RECAP\n{tail(output)}")
    roles = re.findall(r"^(\w+) -{3,} ([\d.]+)s$", text, re.MULTILINE)
    return Play(int(host[1]), int(host[2]), {name: float(seconds) for name, seconds in roles})


def measure_floor(host: dict, url: str, work: Path) -> Result:
    """Measure the script: one ssh call, which brings all it needs in one tar."""
    files = {"floor.sh": HERE / "floor.sh", "uv.txt": ROOT / "roles/flask_app/files/uv.txt"}
    certificates = work / "certificates"
    certificates.mkdir()
    files |= {f"certificates/{path.name}": path for path in CERTIFICATES}
    folders = {"app": ROOT / "app", "certificates": certificates}
    archive = pack(work / "floor.tar.gz", folders, files)
    unpack = "mkdir floor && tar --extract --gzip --directory=floor && floor/floor.sh"
    return Result(run(ssh(host, unpack), work / "first.log", url, stdin=archive))


def measure_playbook(
    playbook: Path, config: Path, variables: dict, host: dict, url: str, work: Path
) -> Result:
    """Measure a playbook on the fresh host, then once more."""
    command = [ANSIBLE_PLAYBOOK, "-i", inventory(work, host), "-e", json.dumps(variables), playbook]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    # Connections of its own, which end with it: the next host at this address is another one.
    sockets = work / "cp"
    env |= {"ANSIBLE_CONFIG": str(config), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)}
    results = []
    for name in ("first", "second"):
        output = work / f"{name}.log"
        try:
            results.append(run(command, output, url if not results else "", cwd=ROOT, env=env))
        finally:
            for path in sockets.glob("*"):
                subprocess.run(
                    ["ssh", "-O", "exit", "-S", path, "bench"], stderr=subprocess.DEVNULL
                )
        results.append(read_play(output))
    return Result(*results)


def measure_site(host: dict, url: str, work: Path) -> Result:
    """Measure site.yml; its second run must find nothing to change."""
    result = measure_playbook(ROOT / "site.yml", ROOT / "ansible.cfg", {}, host, url, work)
    if result.second_play.changed:
        raise BenchmarkError(f"the second run changed something\n{tail(work / 'second.log')}")
    return result


def measure_naive(host: dict, url: str, work: Path) -> Result:
    """Measure the naive playbook, with Ansible as it comes: its settings are an empty file."""
    config = work / "ansible.cfg"
    config.touch()
    variables = {
        "naive_certificates": [str(path) for path in CERTIFICATES],
        "naive_random_text": secrets.token_urlsafe(48),
        "naive_source": str(pack(work / "app.tar.gz", {".": ROOT / "app"}, {})),
    }
    return measure_playbook(HERE / "naive.yml", config, variables, host, url, work)


MEASURE = {"floor": measure_floor, "site": measure_site, "naive": measure_naive}


def end_state(host: dict, work: Path) -> list[str]:
    """Ask the host what it has become."""
    output = work / "end_state.log"
    run(ssh(host, "bash -s"), output, stdin=HERE / "end_state.sh")
    return output.read_text().splitlines()


def measure(rounds: int) -> dict[str, list[Result]]:
    """Measure every variant in every round, one after another.

    :raises BenchmarkError: where one fails, or the variants did not do the same work.
    """
    results = {variant: [] for variant in MEASURE}
    expected = []
    for number in range(1, rounds + 1):
        for variant, measure_variant in MEASURE.items():
            address = ADDRESSES[variant]
            with (
                tempfile.TemporaryDirectory(prefix="bench-") as folder,
                fresh_host(f"bench-{variant}", address) as host,
            ):
                work = Path(folder)
                try:
                    result = measure_variant(host, f"http://{address}/health/ready", work)
                    state = end_state(host, work)
                except BenchmarkError as error:
                    raise BenchmarkError(f"round {number}, {variant}: {error}") from error
            expected = expected or state
            if state != expected:
                difference = "\n".join(difflib.unified_diff(expected, state, "floor", variant))
                raise BenchmarkError(f"{variant} did other work than the floor:\n{difference}")
            results[variant].append(result)
            second = "" if result.second is None else f", second run {result.second:.1f} s"
            say(f"round {number} of {rounds}: {variant:5} {result.first:6.1f} s{second}")
    return results


def spread(values: list[float]) -> str:
    """Write the median and the range of some seconds."""
    return f"{median(values):.1f} [{min(values):.1f}-{max(values):.1f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns after the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def variants_table(results: dict[str, list[Result]]) -> str:
    """Write the figures of the variants side by side."""
    rows = []
    for variant, runs in results.items():
        pairs = zip(runs, results["floor"], strict=True)
        row = [TITLES[variant], spread([result.first for result in runs])]
        row.append(f"{median(result.first / floor.first for result, floor in pairs):.2f}")
        if runs[0].first_play:
            row.append(spread([result.second for result in runs]))
            row += [str(runs[0].first_play.tasks), str(runs[0].second_play.tasks)]
        else:
            row += ["-", "-", "-"]
        rows.append(row)
    head = ["", "first run, s", "ratio", "second run, s", "tasks", "tasks, second run"]
    return table(head, rows)


def roles_table(runs: list[Result]) -> str:
    """Write where the seconds of site.yml go, the longest first."""

    def seconds(plays: list[Play], role: str) -> float:
        return median(play.roles.get(role, 0.0) for play in plays)

    first, second = [run.first_play for run in runs], [run.second_play for run in runs]
    roles = sorted(first[0].roles, key=lambda role: (role == "total", -seconds(first, role)))
    rows = [[role, f"{seconds(first, role):.1f}", f"{seconds(second, role):.1f}"] for role in roles]
    return table(["role", "first run, s", "second run, s"], rows)


def machine() -> str:
    """Describe the machine and how busy it is."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    today = datetime.datetime.now(datetime.UTC).date()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{cpu[1] if cpu else os.uname().machine}, {os.cpu_count()} vCPU, {gib:.0f} GiB, "
        f"Linux {os.uname().release}, {today}; load average at the start {load}"
    )


def section(results: dict[str, list[Result]], machine: str) -> str:
    """Write our section of the page."""
    rounds = len(results["floor"])
    return f"""{BEGIN}
## From a fresh host to the first answer

`{COMMAND}` on {machine}.

Each run starts with a fresh Debian 12 container, reached over ssh; the machine that runs Ansible
is also the one that runs the container. The clock stops at the first 200 of `GET /health/ready`,
which comes through nginx and gunicorn from PostgreSQL. Variants are interleaved, figures are the
median [minimum-maximum] of {rounds} rounds, and the ratio is the median of each round's own ratio
to the floor. All three end in the same state, which is compared. The floor is
`tests/benchmarks/provision/floor.sh`: the same work over one ssh call, without a check and without
a second run. The naive playbook, `tests/benchmarks/provision/naive.yml`, does it as tutorials do.

{variants_table(results)}

Where the time of `site.yml` goes; a second run changes nothing:

{roles_table(results["site"])}
{END}"""


def write_page(text: str) -> None:
    """Put our section into the page, in the place of the old one; leave the others alone."""
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    before, begin, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    before = before if begin else before.rstrip("\n") + "\n\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(before + text + after)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one round; the page stays as it is")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write the page."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    here = machine()
    say(here)
    try:
        results = measure(1 if arguments.quick else arguments.rounds)
    except BenchmarkError as error:
        sys.exit(f"Problem: {error}")
    text = section(results, here)
    print(text)
    if not arguments.quick:
        write_page(text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
