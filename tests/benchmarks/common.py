"""What the benchmarks share: a fresh host, commands with an end, and a section of one page."""

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"

HOST = ROOT / "molecule/hosts/host"
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
CERTIFICATES = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
NOT_SOURCE = {".git", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__", "instance"}
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

LIMIT_SECONDS = 600
POLL_SECONDS = 0.1


class BenchmarkError(Exception):
    """A run that gives no figure; its text says why."""


def say(message: str) -> None:
    """Show progress."""
    print(message, file=sys.stderr, flush=True)


# -- the host


@contextlib.contextmanager
def fresh_host(name: str, address: str, *options: str) -> Iterator[dict]:
    """Make a fresh container, give how to reach it, and remove it whatever happens."""
    # A session of its own, so that Ctrl-C does not also stop the removal.
    command = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    try:
        subprocess.run([HOST, "destroy", name], check=True, **command)
        create = [HOST, "create", name, "--suite", "bookworm", "--address", address, *options]
        yield json.loads(subprocess.run(create, check=True, **command).stdout)
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(error.stderr.decode()) from error
    finally:
        subprocess.run([HOST, "destroy", name], check=False, **command)


def ssh(host: dict, remote: str) -> list[str]:
    """Return the ssh command that runs something on the host."""
    options = [*SSH_OPTIONS.split(), "-i", host["identity_file"], "-p", str(host["port"])]
    return ["ssh", *options, f"{host['user']}@{host['address']}", remote]


def inventory(work: Path, host: dict, is_ours: bool = True) -> Path:
    """Write an inventory with the host in every group, as inventory/demo has it.

    `is_ours` says whether the project's own variables belong to it.
    """
    folder = work / "inventory"
    folder.mkdir()
    if is_ours:
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


# -- commands


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
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
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


def play(
    playbook: Path,
    hosts: Path,
    variables: dict,
    output: Path,
    url: str = "",
    config: Path = ROOT / "ansible.cfg",
) -> float:
    """Run a playbook over connections of its own, which end with it; see `run`."""
    command = [ANSIBLE_PLAYBOOK, "-i", hosts, "-e", json.dumps(variables), playbook]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    # The next host at this address is another one, and each run makes its own way there.
    sockets = output.parent / "cp"
    env |= {"ANSIBLE_CONFIG": str(config), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)}
    try:
        return run(command, output, url, cwd=ROOT, env=env)
    finally:
        for path in sockets.glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-S", path, "bench"], stderr=subprocess.DEVNULL)


# -- the page


def draw(script: Path, data: object, picture: Path) -> None:
    """Let a script draw a picture; its libraries come from uv, and only for this."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        given, log = Path(folder, "data.json"), Path(folder, "plot.log")
        given.write_text(json.dumps(data))
        uv = [Path(sys.executable).with_name("uv"), "run", "--quiet", "--python", sys.executable]
        run([*uv, "--script", script, given, picture], log)


def spread(values: list[float], digits: int = 1) -> str:
    """Write the median and the range of some figures."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, median, max))
    return f"{middle} [{low}-{high}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns after the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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


def write_page(text: str, begin: str, end: str, path: Path = PAGE) -> None:
    """Put a section into the page, in the place of the old one; leave the others alone."""
    page = path.read_text() if path.exists() else "# Benchmarks\n"
    before, found, rest = page.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    before = before if found else before.rstrip("\n") + "\n\n"
    path.write_text(before + text + after)


# -- the program


def parse_arguments(description: str, rounds: int, has_again: bool) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.set_defaults(again=False)
    if has_again:
        text = "measure nothing; write docs/ from the last full run"
        parser.add_argument("--again", action="store_true", help=text)
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one round; docs/ stays as it is")
    return parser.parse_args()


def main(
    name: str,
    description: str,
    measured: Callable[[int, str, bool], str],
    again: Callable[[], str] | None = None,
    page: Path = PAGE,
    rounds: int = 5,
) -> None:
    """Measure, print, and write the section of this name.

    :param measured: from the number of rounds, the machine, and whether docs/ is to be written, to
        the text of the section.
    :param again: returns the text from the figures of the last run, where they are kept.
    """
    arguments = parse_arguments(description.partition("\n")[0], rounds, again is not None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    here = machine()
    say(here)
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    try:
        rounds = 1 if arguments.quick else arguments.rounds
        said = again() if arguments.again else measured(rounds, here, not arguments.quick)
        text = f"{begin}\n{said}\n{end}"
    except BenchmarkError as error:
        sys.exit(f"Problem: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    print(text)
    if not arguments.quick:
        write_page(text, begin, end, page)
