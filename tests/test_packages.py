"""Packages are installed although another apt or dpkg is at work."""

import pytest

from plugins import load

packages = load("base/library/packages.py")

LISTS_HELD = (
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)\n"
    "E: Unable to lock directory /var/lib/apt/lists/\n"
)
DPKG_HELD = "dpkg: error: dpkg frontend lock was locked by another process with pid 7\n"
WAITED = "Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend.\n"


class Host:
    """A host on which each command of `says` fails so often, with these words."""

    check_mode, _diff = False, False

    def __init__(self, says: dict[str, list[str]]):
        self.says, self.done, self.environment = says, [], {}
        self.params = {
            "names": ["nginx"],
            "start_later": [],
            "cache_hours": 1,
            "lock_timeout_seconds": 10,
        }

    def run_command(self, command, environ_update=None):
        """Tell how a command ended."""
        name = " ".join(command[:2])
        self.environment = environ_update or self.environment
        if name in ("dpkg-query --show", "dpkg --audit"):
            return 0, "", ""
        self.done.append(name)
        said = self.says.get(name, [])
        return (100, "", said.pop(0)) if said else (0, "", "")

    def exit_json(self, **result):
        """End well."""
        raise SystemExit(0)

    def fail_json(self, msg, **result):
        """End badly."""
        raise SystemExit(msg)


def run(monkeypatch, says: dict[str, list[str]], interrupted=(False,)) -> tuple[Host, str]:
    """Run the module; return the host, and what the module failed with."""
    host, clock, answers = Host(says), [0.0], list(interrupted)
    monkeypatch.setattr(packages, "AnsibleModule", lambda **_: host)
    monkeypatch.setattr(packages, "lists_are_older_than", lambda _hours: True)
    # The last answer holds.
    judge = lambda _module: answers.pop(0) if len(answers) > 1 else answers[0]  # noqa: E731
    monkeypatch.setattr(packages, "interrupted", judge)
    monkeypatch.setattr(packages.os, "sync", lambda: None)
    monkeypatch.setattr(packages.time, "monotonic", lambda: clock[0])
    wait = lambda seconds: clock.__setitem__(0, clock[0] + seconds)  # noqa: E731
    monkeypatch.setattr(packages.time, "sleep", wait)
    with pytest.raises(SystemExit) as end:
        packages.main()
    return host, end.value.code


def test_the_lists_are_fetched_once_another_apt_is_done(monkeypatch):
    host, failure = run(monkeypatch, {"apt-get update": [LISTS_HELD] * 2})
    assert not failure
    assert host.done == ["apt-get update"] * 3 + ["apt-get install"]


def test_an_interrupted_dpkg_is_finished_once_another_is_done(monkeypatch):
    says = {"dpkg --configure": [DPKG_HELD]}
    host, failure = run(monkeypatch, says, [True])
    assert not failure
    assert host.done == ["apt-get update", *["dpkg --configure"] * 2, "apt-get install"]


def test_a_dpkg_that_was_only_at_work_is_not_finished_by_us(monkeypatch):
    says = {"dpkg --configure": [DPKG_HELD] * 9}
    host, failure = run(monkeypatch, says, [True, False])
    assert not failure
    assert host.done == ["apt-get update", "dpkg --configure", "apt-get install"]


@pytest.mark.parametrize(
    ("step", "said", "lock"),
    [
        ("apt-get update", LISTS_HELD, "/var/lib/apt/lists/lock"),
        ("dpkg --configure", DPKG_HELD, "dpkg frontend lock"),
    ],
)
def test_a_lock_that_is_held_too_long_is_named_with_a_fix(monkeypatch, step, said, lock):
    host, failure = run(monkeypatch, {step: [said] * 99}, [True])
    assert lock in failure.splitlines()[0]
    assert "Seen in: " in failure
    assert "Allowed: " in failure
    assert "Fix: wait" in failure
    assert host.done.count(step) > 2


def test_another_failure_is_not_tried_again(monkeypatch):
    said = f"{WAITED}E: Unable to locate package nginx\n"
    host, failure = run(monkeypatch, {"apt-get install": [said] * 2})
    assert "Unable to locate" in failure
    assert host.done.count("apt-get install") == 1


def test_apt_speaks_english_whoever_logs_in(monkeypatch):
    monkeypatch.setenv("LANGUAGE", "de")
    host, _ = run(monkeypatch, {})
    assert (host.environment["LC_ALL"], host.environment["LANGUAGE"]) == ("C.UTF-8", "")
