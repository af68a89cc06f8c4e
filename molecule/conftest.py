"""What all scenarios share: asking over HTTP, the guard, and the journals when a test fails."""

import ast
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runs
import yaml

PROJECT = Path(__file__).parents[1]
SCENARIO = PROJECT / "molecule" / os.environ.get("MOLECULE_SCENARIO_NAME", "default")
INVENTORY = os.environ.get("MOLECULE_INVENTORY_FILE", "")
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
# What an alert is about, the first of them that it has.
SUBJECTS = ("app", "mountpoint", "unit", "name", "line", "job")


class Site:
    """The application as a client on another machine sees it."""

    def __init__(self, address: str):
        self.url = f"http://{address}"

    def ask(self, path: str, body: object = None, headers: dict | None = None) -> "Answer":
        """Send a GET, or with a body a POST of JSON; return the answer, whatever its status."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 (http only)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 (http)
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())


class Answer:
    """Status, headers and body of an HTTP answer."""

    def __init__(self, status: int, headers: dict, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> object:
        """Return the body, decoded."""
        return json.loads(self.body)


@pytest.fixture
def kill() -> Callable[[subprocess.Popen], None]:
    """Return a function that ends a run of Ansible as a power cut at the operator's does."""
    return runs.kill


@pytest.fixture
def variables(host) -> dict:
    """Return the inventory's variables of the host."""
    return host.ansible.get_variables()


@pytest.fixture
def knob(variables):
    """Return a function: the inventory's value of an input, or the default that was promised."""
    return lambda name, promised: variables.get(name, promised)


@pytest.fixture
def site(variables) -> Site:
    """Return the site as it is seen from outside."""
    return Site(variables["ansible_host"])


@pytest.fixture
def app(knob) -> str:
    """Return the name of the application."""
    return knob("site_app_name", "webapp")


@pytest.fixture
def release(host, app) -> str:
    """Return the release that serves."""
    return host.check_output(f"basename $(readlink /srv/{app}/current)")


@pytest.fixture
def master_pid(host, app, release) -> int:
    """Return the process id of gunicorn's master."""
    return int(host.service(f"{app}@{release}").systemd_properties["MainPID"])


@pytest.fixture
def gunicorn_settings(host, app, release) -> dict:
    """Return the settings that the running gunicorn tells over its control socket."""
    ask = f"/srv/{app}/current/venv/bin/gunicornc --socket /run/{app}/{release}/control.sock --json"
    return json.loads(host.check_output(f"{ask} --command 'show config'"))


@pytest.fixture
def workers(host, master_pid) -> list:
    """Return the worker processes of gunicorn."""
    return host.process.filter(ppid=master_pid)


@pytest.fixture
def sql(host, app):
    """Return a function that asks the application's database as its superuser."""
    return lambda query, database=app: host.check_output(
        "runuser -u postgres -- psql --dbname=%s --tuples-only --no-align --command=%s",
        database,
        query,
    )


def run_playbook(name: str, host, *arguments: str) -> subprocess.CompletedProcess:
    """Run a playbook, as a user would, on one host alone."""
    command = ["ansible-playbook", "--inventory", str(Path(INVENTORY).parent)]
    command += ["--limit", f"{host.backend.host},localhost", *arguments, name]
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    settings["ANSIBLE_FORCE_COLOR"] = "0"  # which molecule sets
    settings["TZ"] = "Asia/Ho_Chi_Minh"  # users do not live in UTC; the host's clock does
    return subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env=os.environ | settings
    )


@pytest.fixture(scope="module")
def playbook(host):
    """Return a function that runs site.yml."""
    return lambda *arguments: run_playbook("site.yml", host, *arguments)


@pytest.fixture
def run_doctor(host):
    """Return a function that runs playbooks/doctor.yml."""
    return lambda *arguments: run_playbook("playbooks/doctor.yml", host, *arguments)


@pytest.fixture
def run_ops(host):
    """Return a function that runs ./ops."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "timeout": 300} | options
        command = [str(PROJECT / "ops"), "--inventory", str(Path(INVENTORY).parent), *arguments]
        settings = {"ANSIBLE_NOCOLOR": "1", "TZ": "Asia/Ho_Chi_Minh"}
        settings["ANSIBLE_FORCE_COLOR"] = "0"  # which molecule sets
        return subprocess.run(command, env=os.environ | settings, **options)

    return run


@pytest.fixture
def neighbour(host, tmp_path, variables):
    """Return a function: the options that put an entry `neighbour` on the host's machine.

    It takes the neighbour's groups and variables, and as `mine` other variables of the host.
    """
    way = {name: variables[name] for name in variables if name.startswith("ansible_")}
    way = {name: value for name, value in way.items() if isinstance(value, str | int)}

    def options(*groups: str, mine: dict | None = None, **values: object) -> tuple[str, ...]:
        hosts = {host.backend.host: mine or {}, "neighbour": way | values}
        inventory = {"all": {"hosts": hosts}}
        inventory |= {group: {"hosts": {"neighbour": {}}} for group in groups}
        path = tmp_path / "neighbour.yml"
        path.write_text(json.dumps(inventory))
        return "--inventory", str(path)

    return options


def scenario_groups() -> dict[str, list[str]]:
    """Return the hosts of each group, as the scenario's molecule.yml promises them."""
    groups = {}
    for platform in yaml.safe_load((SCENARIO / "molecule.yml").read_text())["platforms"]:
        for group in platform["groups"]:
            groups.setdefault(group, []).append(platform["name"])
    return groups


def promised_tests(module: Path, groups: dict[str, list[str]]) -> int:
    """Count what a module must collect: its test functions times the hosts of its group."""
    tree = ast.parse(module.read_text())
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    count = sum(node.name.startswith("test_") for node in tests)
    names = [
        ast.literal_eval(node.value)[0].removeprefix("ansible://")
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "testinfra_hosts"
    ]
    if not names:
        return count  # of tests that ask no host
    hosts = {host for members in groups.values() for host in members}
    return count * len(hosts if names == ["all"] else groups.get(names[0], names))


def pytest_collection_finish(session) -> None:
    """Fail a scenario that collected fewer tests than its modules and hosts promise."""
    if session.config.option.keyword or any("::" in argument for argument in session.config.args):
        return  # a person asked for some tests only
    groups = scenario_groups()
    for module in sorted({item.path for item in session.items}):
        promised = promised_tests(module, groups)
        collected = sum(item.path == module for item in session.items)
        if collected < promised or promised == 0:
            raise pytest.UsageError(
                f"{module.name} collected {collected} tests, {promised} were promised.\n"
                f"Fix: see which host of {sorted(groups)} is missing from the inventory."
            )
    folder = Path(session.config.args[0]).resolve()
    missing = set(folder.glob("test_*.py")) - {item.path for item in session.items}
    if missing:
        raise pytest.UsageError(f"Not collected at all: {sorted(path.name for path in missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the last lines of the host's journal to the report of a test that failed."""
    report = yield
    if report.failed and "host" in getattr(item, "funcargs", {}):
        try:
            journal = item.funcargs["host"].run("journalctl --no-pager --lines 40 --priority 5")
            said = journal.stdout
        except RuntimeError as unreachable:
            said = str(unreachable)
        report.sections.append(("journal of the host", said))
    return report


@pytest.fixture(scope="module")
def lynis(host) -> dict[str, list[str]]:
    """Return what Lynis reports of the host, by its keys; it is not installed for that."""
    report = host.check_output("sh -c %s", (PROJECT / "molecule/lynis.sh").read_text())
    found = {}
    for line in report.splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key.removesuffix("[]"), []).append(value)
    return found


class Watch:
    """Prometheus of a host."""

    def __init__(self, host):
        self.host = host

    def ask(self, path: str) -> dict:
        """Return what its HTTP API answers; nothing where it does not."""
        done = self.host.run("python3 -c %s %s", ASK, f"http://127.0.0.1:9090{path}")
        return json.loads(done.stdout)["data"] if done.rc == 0 else {}

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that are firing, each with what it is about."""
        rows = self.ask("/api/v1/alerts").get("alerts", [])
        return {
            (labels["alertname"], next((labels[name] for name in SUBJECTS if name in labels), ""))
            for row in rows
            if row["state"] == "firing" and (labels := row["labels"])
        }

    def fires(self, alert: str, subject: str, seconds: int = 120) -> bool:
        """Wait until an alert fires."""
        return self.until(lambda: (alert, subject) in self.firing(), seconds)

    def clears(self, alert: str, subject: str, seconds: int = 180) -> bool:
        """Wait until it does not, while Prometheus answers."""
        return self.until(
            lambda: self.ask("/api/v1/alerts") and (alert, subject) not in self.firing(), seconds
        )

    def until(self, is_so: Callable[[], object], seconds: int) -> bool:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if is_so():
                return True
            time.sleep(1)
        return False


@pytest.fixture
def watch(host) -> Watch:
    """Return Prometheus of the host."""
    return Watch(host)


@pytest.fixture
def afterwards(host) -> Iterator[Callable[[str], None]]:
    """Return a function: a shell command that is run when the test is over, whatever happened."""
    commands = []
    yield commands.append
    for command in reversed(commands):
        host.run("sh -c %s", command)
