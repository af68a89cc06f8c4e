"""The tests: linters, house tests, the app's tests, Molecule scenarios; one table at the end."""

import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from . import CACHE, ROOT, setup
from .processes import SILENCE_SECONDS, stream
from .report import say

LOGS = CACHE / "test-logs"
LAST_LINES = 40
# Molecule cleans up after a failure; what came before this line is the cause.
MOLECULE_GAVE_UP = "An error occurred during the test sequence"
# Scenarios which only `make test-all` runs.
EXHAUSTIVE = (
    "backup",
    "docs",
    "faults",
    "faults-vm",
    "monitoring",
    "ops",
    "security",
    "security-vm",
    "upgrade",
)
# They keep one core busy for long: the other one does what follows. An emulated machine, which has
# one core, takes longest, and so begins first. Without one the house tests take its place.
MACHINES = ("vm", "faults-vm", "security-vm")
# They measure what users notice: nothing runs beside them.
ALONE = ("deploy", "faults")
# Molecule would draw a frame around pytest's output, and wrap its lines.
PLAIN_OUTPUT = {"MOLECULE_COMMAND_BORDERS": "false", "NO_COLOR": "1"}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The closing line of pytest, as "=== 1 failed, 12 passed in 3.21s ===".
CLOSING = re.compile(
    r"^=* ?((?:\d+ \w+, )*\d+ \w+|no tests ran) in [\d.]+s(?: \([\d:, days]+\))? ?=*\s*$",
    re.MULTILINE,
)


@dataclass
class Check:
    """One row of the table: a command, and whether it ends in pytest's closing line."""

    name: str
    command: list[str]
    folder: Path = ROOT
    is_pytest: bool = True
    scenario: str = ""

    @property
    def alone(self):
        """Tell whether nothing may run beside it."""
        return self.scenario in ALONE


@dataclass
class Result:
    """How a check ended; passed and failed are numbers of tests."""

    name: str
    verdict: str
    passed: int
    failed: int
    seconds: float
    log: Path


def lint():
    """Run the linters; return the exit code."""
    setup.prepare("tools", "lint")
    return run(linters())


def check():
    """Run what needs no test host; return the exit code."""
    setup.prepare("tools", "lint", "app")
    return run([*quick_tests(), *linters()])


def test(exhaustive):
    """Run everything; return the exit code."""
    setup.prepare(*setup.EVERYTHING, *(setup.RARELY.values() if exhaustive else ()))
    setup.need_root_without_questions()
    hosts = scenarios(exhaustive)
    machines = [check for check in hosts if check.scenario in MACHINES]
    rest = [check for check in hosts if check.scenario not in MACHINES]
    return run([*machines, *quick_tests(), *linters(), *rest, *benchmarks(exhaustive)])


def linters():
    """Return one check per linter."""
    commands = {
        "yamllint": ["yamllint", "--strict", "."],
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "shellcheck": ["shellcheck", *map(str, shell_scripts())],
        "ansible-lint": ["ansible-lint"],
    }
    return [Check(name, command, is_pytest=False) for name, command in commands.items()]


def shell_scripts():
    """Return every shell script of ours, whatever its name ends in."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.endswith(".j2")]
    return sorted(path.relative_to(ROOT) for path in found if path.is_file() and is_shell(path))


def is_shell(path):
    """Tell by the first line whether a file is a shell script."""
    with path.open("rb") as file:
        return re.match(rb"#!.*\b(ba|da|k)?sh\b", file.readline(200)) is not None


def quick_tests():
    """Return the house tests and the app's tests, each in its own virtualenv."""
    app = ROOT / "app"
    setup.make_virtualenv(setup.APP_VENV, app / "requirements.txt", app / "requirements-dev.txt")
    python = str(setup.APP_VENV / "bin/python")
    return [
        Check("house tests", ["pytest", "tests"]),
        Check("app tests", [python, "-m", "pytest"], folder=app),
    ]


def scenarios(exhaustive):
    """Return the Molecule scenarios: the usual ones first, what runs alone last."""
    names = [path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")]
    order = {"vm": 0, "default": 1} | dict.fromkeys(ALONE, 3)
    names.sort(key=lambda name: (order.get(name, 2), name))
    return [
        Check(f"molecule {name}", ["molecule", "test", "--scenario-name", name], scenario=name)
        for name in names
        if exhaustive or name not in EXHAUSTIVE
    ]


def benchmarks(exhaustive):
    """Return the benchmark in its quick form: its figures say little, but it has to work."""
    command = ["python", "tests/benchmarks/serve.py", "--quick"]
    return [Check("benchmark", command, is_pytest=False)] if exhaustive else []


def run(checks):
    """Run the checks, print the table; return the exit code."""
    results, beside = [], Beside()
    has_machine = any(check.scenario in MACHINES for check in checks)
    for check in checks:
        if check.alone:
            results += beside.results()
        if beside.stop.is_set():
            break
        if check.scenario in MACHINES or (check.name == "house tests" and not has_machine):
            beside.start(check)
            continue
        say(f"\n==> {check.name}")
        results.append(perform(check))
        tell(results[-1])
        if results[-1].verdict == "interrupted":
            beside.stop.set()
    results += beside.results()
    say(summary(results))
    if any(result.verdict == "interrupted" for result in results):
        return 130
    return 1 if any(result.failed for result in results) else 0


def tell(result):
    """Say how a check ended."""
    say(f"<== {result.name}: {result.verdict} in {result.seconds:.0f} s")


class Beside:
    """The checks that run beside the others, one after another; their output is in their logs."""

    def __init__(self):
        """Begin with none."""
        self.stop = threading.Event()
        self.lane = ThreadPoolExecutor(max_workers=1)
        self.running = []

    def start(self, check):
        """Let a check run, after those that were started before."""
        say(f"\n==> {check.name}, beside what follows; its output: {log_of(check)}")
        self.running.append(self.lane.submit(perform, check, self.stop))

    def results(self):
        """Wait for all that were started, and return their results."""
        try:
            while wait(self.running, timeout=SILENCE_SECONDS).not_done:
                say("    … waiting for what runs beside")
        except KeyboardInterrupt:
            self.stop.set()
        # Of those that were told to stop, some have not begun.
        ended = [check for check in self.running if not check.cancel()]
        results = [check.result() for check in ended]
        self.running = []
        for result in results:
            tell(result)
        return results


def log_of(check):
    """Return where the output of a check goes."""
    return LOGS / f"{check.name.replace(' ', '-')}.log"


def perform(check, stop=None):
    """Run one check to its end; leave no test host behind even when interrupted.

    With stop, an event, its output is not shown, and that event interrupts it.
    """
    log = log_of(check)
    started = time.monotonic()
    environment = setup.environment() | PLAIN_OUTPUT
    environment.pop("PYTEST_ADDOPTS", None)  # a -k from the work before would leave tests out
    try:
        code = stream(
            check.command, log, cwd=check.folder, env=environment, own_group=True, stop=stop
        )
        verdict, passed, failed = judge(code, log.read_text(errors="replace"), check.is_pytest)
    except KeyboardInterrupt:
        verdict, passed, failed = "interrupted", 0, 1
        if check.scenario:
            say(f"\nInterrupted: destroying the hosts of {check.name}")
            destroy = ["molecule", "destroy", "--scenario-name", check.scenario]
            subprocess.run(destroy, cwd=ROOT, env=environment, process_group=0)
    return Result(check.name, verdict, passed, failed, time.monotonic() - started, log)


def judge(code, output, is_pytest):
    """Return the verdict and the numbers of passed and failed tests of a command that ended."""
    if not is_pytest:
        return ("failed", 0, 1) if code else ("passed", 1, 0)
    passed, failed = count(output)
    if code == 0 and passed + failed == 0:
        return "no tests", 0, 1
    if code or failed:
        return "failed", passed, max(failed, 1)
    return "passed", passed, failed


def count(output):
    """Add up the closing lines of pytest: (passed, failed). A scenario may verify several times."""
    passed = failed = 0
    for closing in CLOSING.findall(ANSI.sub("", output)):
        for number, outcome in re.findall(r"(\d+) (\w+)", closing):
            passed += int(number) if outcome == "passed" else 0
            failed += int(number) if outcome in {"failed", "error", "errors"} else 0
    return passed, failed


def last_lines(log):
    """Return the lines of a log that tell why it failed."""
    lines = log.read_text(errors="replace").splitlines()
    gave_up = [number for number, line in enumerate(lines, 1) if MOLECULE_GAVE_UP in line]
    end = gave_up[0] if gave_up else len(lines)
    return lines[max(0, end - LAST_LINES) : end]


def summary(results):
    """Return the last lines of what failed, the table, and the line of the totals."""
    lines = []
    for result in results:
        if result.verdict not in {"passed", "interrupted"}:
            lines += ["", f"--- from {result.log.relative_to(ROOT)} ---", *last_lines(result.log)]
    rows = [("scenario", "result", "tests", "seconds")]
    rows += [
        (result.name, result.verdict, str(result.passed + result.failed), f"{result.seconds:.0f}")
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("")
    for name, verdict, tests, seconds in rows:
        lines.append(
            f"{name:{widths[0]}}  {verdict:{widths[1]}}"
            f"  {tests:>{widths[2]}}  {seconds:>{widths[3]}}"
        )
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    return "\n".join([*lines, "", f"{passed} passed, {failed} failed"])
