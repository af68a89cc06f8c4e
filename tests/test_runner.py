"""The programs behind `make`: what they count, what they refuse, how they stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from runner import ROOT, demo, processes, setup, suite
from runner.report import Problem

PASSED = "============ 12 passed in 3.21s ============"
FAILED = "==== 1 failed, 2 passed, 1 warning, 1 error in 75.00s (0:01:15) ===="


def result(name, verdict, passed, failed, log):
    return suite.Result(name, verdict, passed, failed, 1.4, log)


@pytest.mark.parametrize(
    ("output", "passed", "failed"),
    [
        (PASSED, 12, 0),
        (f"TASK [x]\n{PASSED}\nPLAY RECAP\n{PASSED}\n", 24, 0),
        (FAILED, 2, 2),
        ("1 failed, 1 passed in 0.02s", 1, 1),
        ("\x1b[31m= \x1b[1m1 failed\x1b[0m, \x1b[32m1 passed\x1b[0m\x1b[31m in 1.05s =", 1, 1),
        ("=== 2 passed, 1 skipped, 3 deselected in 90061.00s (1 day, 1:01:01) ===", 2, 0),
        ("== no tests ran in 0.01s ==", 0, 0),
        ("INFO 3 passed in 1.00s\n12 passed in a row", 0, 0),
    ],
)  # fmt: skip
def test_closing_lines_of_pytest_are_added_up(output, passed, failed):
    assert suite.count(output) == (passed, failed)


@pytest.mark.parametrize(
    ("code", "output", "is_pytest", "verdict"),
    [
        (0, PASSED, True, ("passed", 12, 0)),
        (1, FAILED, True, ("failed", 2, 2)),
        (1, PASSED, True, ("failed", 12, 1)),
        (0, FAILED, True, ("failed", 2, 2)),
        (0, "nothing to verify", True, ("no tests", 0, 1)),
        (0, "no tests ran in 0.01s", True, ("no tests", 0, 1)),
        (-9, "", True, ("failed", 0, 1)),
        (0, "", False, ("passed", 1, 0)),
        (2, "", False, ("failed", 0, 1)),
    ],
)
def test_a_check_without_proof_is_a_failure(code, output, is_pytest, verdict):
    assert suite.judge(code, output, is_pytest) == verdict


def test_summary_ends_with_the_totals_and_repeats_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    log = tmp_path / "molecule-default.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    lines = suite.summary(
        [
            result("yamllint", "passed", 1, 0, log),
            result("molecule default", "failed", 28, 2, log),
        ]
    ).splitlines()
    assert lines[-1] == "29 passed, 2 failed"
    assert lines[-3:-1] == ["molecule default  failed     30        1", ""]
    assert [line for line in lines if line.startswith("line")] == [
        f"line {number}" for number in range(100 - suite.LAST_LINES, 100)
    ]


def test_the_cause_is_repeated_and_not_the_clean_up_after_it(tmp_path):
    log = tmp_path / "molecule-default.log"
    before = [f"line {number}" for number in range(50)]
    stop = f"WARNING  [default > verify] {suite.MOLECULE_GAVE_UP} action: 'verify'. Cleaning up."
    log.write_text("\n".join([*before, stop, *["PLAY [Destroy the test hosts]"] * 50]))
    assert suite.last_lines(log) == [*before[-suite.LAST_LINES + 1 :], stop]


def test_every_scenario_is_run_and_those_that_measure_are_last(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "EXHAUSTIVE", ("long",))
    for name in ("vm", "zones", "deploy", "long", "default"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    (tmp_path / "molecule/hosts").mkdir()
    usual = [check.scenario for check in suite.scenarios(exhaustive=False)]
    assert usual == ["vm", "default", "zones", "deploy"]
    assert [check.scenario for check in suite.scenarios(exhaustive=True)] == [
        "vm", "default", "long", "zones", "deploy",
    ]  # fmt: skip


def test_what_takes_longest_begins_first(monkeypatch):
    ran = []
    monkeypatch.setattr(suite, "run", ran.extend)
    monkeypatch.setattr(suite.setup, "prepare", lambda *_: None)
    monkeypatch.setattr(suite.setup, "need_root_without_questions", lambda: None)
    monkeypatch.setattr(suite.setup, "make_virtualenv", lambda *_: None)
    suite.test(exhaustive=False)
    names = [check.name for check in ran]
    assert names[:3] == ["molecule vm", "house tests", "app tests"]
    assert names[-3:] == ["molecule default", "molecule override", "molecule deploy"]


def test_everything_includes_the_benchmark_in_its_quick_form():
    assert suite.benchmarks(exhaustive=False) == []
    [check] = suite.benchmarks(exhaustive=True)
    assert check.command[-1] == "--quick"
    assert (ROOT / check.command[1]).exists()


@pytest.mark.parametrize(
    ("commands", "code", "totals"),
    [
        (["true", "true"], 0, "2 passed, 0 failed"),
        (["true", "false", "true"], 1, "2 passed, 1 failed"),
        (["false"], 1, "0 passed, 1 failed"),
    ],
)
def test_one_failure_fails_the_run_and_stops_nothing(
    tmp_path, monkeypatch, capsys, commands, code, totals
):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    checks = [suite.Check(name, [name], tmp_path, is_pytest=False) for name in commands]
    assert suite.run(checks) == code
    assert capsys.readouterr().out.splitlines()[-1] == totals


def scenarios_of_shell(tmp_path, monkeypatch, **commands):
    """Return checks that are named like scenarios and run a line of shell."""
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    return [
        suite.Check(
            f"molecule {name}", ["sh", "-c", line], tmp_path, is_pytest=False, scenario=name
        )
        for name, line in commands.items()
    ]


def test_the_emulated_machine_runs_beside_the_others_and_not_beside_a_measurement(
    tmp_path, monkeypatch, capsys
):
    wait = "for i in $(seq 50); do test -e usual && break; sleep 0.1; done"
    checks = scenarios_of_shell(
        tmp_path,
        monkeypatch,
        vm=f"{wait}; test -e usual && sleep 1 && touch machine && echo hidden",
        default="touch usual",
        deploy="test -e machine",
    )
    assert suite.run(checks) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "3 passed, 0 failed"
    assert "hidden" not in shown
    assert (tmp_path / "molecule-vm.log").read_text() == "hidden\n"


@pytest.mark.parametrize(("machine", "shown"), [(False, False), (True, True)])
def test_the_house_tests_are_beside_the_linters_where_no_machine_is(
    tmp_path, monkeypatch, capsys, machine, shown
):
    checks = scenarios_of_shell(tmp_path, monkeypatch, vm="true") if machine else []
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    checks.append(suite.Check("house tests", ["echo", "kept the rules"], tmp_path, is_pytest=False))
    assert suite.run(checks) == 0
    assert ("kept the rules" in capsys.readouterr().out) == shown


def test_what_fails_beside_fails_the_run(tmp_path, monkeypatch, capsys):
    checks = scenarios_of_shell(tmp_path, monkeypatch, vm="echo the cause; false", default="true")
    assert suite.run(checks) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "the cause" in shown
    assert shown[-1] == "1 passed, 1 failed"


@pytest.fixture
def interruptible():
    """Take Ctrl-C even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_destroys_the_hosts_and_goes_no_further(tmp_path, monkeypatch, capsys):
    checks = scenarios_of_shell(
        tmp_path,
        monkeypatch,
        vm="touch begun; sleep 60",
        default="sleep 60",
        override="touch went-on",
    )
    stream, destroyed = suite.stream, []

    def interrupted(command, log, *, stop, **options):
        if not stop:
            deadline = time.monotonic() + 10
            while not (tmp_path / "begun").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise KeyboardInterrupt
        return stream(command, log, stop=stop, **options)

    monkeypatch.setattr(suite, "stream", interrupted)
    monkeypatch.setattr(suite.subprocess, "run", lambda line, **options: destroyed.append(line))
    assert suite.run(checks) == 130
    assert sorted(line[-1] for line in destroyed) == ["default", "vm"]
    assert not (tmp_path / "went-on").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 2 failed"


def test_shell_scripts_are_found_by_their_first_line():
    found = [str(path) for path in suite.shell_scripts()]
    assert {".ci/run", "molecule/hosts/podman"} <= set(found)
    assert not [path for path in found if path.endswith(".py") or path.startswith(".venv")]


def test_output_is_kept_and_a_daemon_does_not_hold_the_run(tmp_path):
    log = tmp_path / "logs/daemon.log"
    started = time.monotonic()
    code = processes.stream(["sh", "-c", "echo seen; sleep 30 & exit 3"], log, own_group=True)
    assert (code, log.read_text()) == (3, "seen\n")
    assert time.monotonic() - started < 10


def test_silence_is_broken_by_a_sign_of_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "SILENCE_SECONDS", 0.5)
    processes.stream(["sleep", "2.5"], tmp_path / "log")
    assert "still running after" in capsys.readouterr().out


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reaches_the_descendants(tmp_path):
    interrupt = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    # A shell obeys its trap only when the program in front of it has ended.
    command = ["sh", "-c", f"trap 'touch {tmp_path}/told; exit' INT; sleep 60"]
    with pytest.raises(KeyboardInterrupt):
        processes.stream(command, tmp_path / "log", own_group=True)
    interrupt.join()
    assert (tmp_path / "told").exists()


def test_a_busy_port_is_refused_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Problem, match=f"port {port} .* in use") as problem:
            demo.refuse_busy_port(port)
    assert f"DEMO_PORT={port + 1}" in problem.value.fix


def test_a_free_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert demo.refuse_busy_port(port) is None


@pytest.mark.parametrize(
    "line",
    [
        "Err:1 http://deb.debian.org bookworm InRelease\n  Temporary failure resolving 'deb…'",
        "  Could not connect to deb.debian.org:80 (151.101.2.132), connection timed out",
        "[Errno -2] Name or service not known",
        "  cause: dns error",
        "Cannot connect to proxy.', OSError(0, 'ProxyError",
    ],
)
def test_a_download_without_network_is_called_that(tmp_path, monkeypatch, line):
    monkeypatch.setattr(setup, "LOG", tmp_path / "setup.log")
    setup.LOG.write_text(line)
    assert "no network" in str(setup.failure("pip could not install uv", "make setup"))
    setup.LOG.write_text("No space left on device")
    assert "no network" not in str(setup.failure("pip could not install uv", "make setup"))


def test_only_what_is_not_there_is_installed(monkeypatch, tmp_path):
    (tmp_path / "15").mkdir()
    needs = {
        "here": {"sh": "dash", "python:json": "python3", f"{tmp_path}/*": "some-files"},
        "away": {"no-such-program": "a", "python:no_such_module": "b", f"{tmp_path}/1/*": "c"},
    }
    monkeypatch.setattr(setup, "PACKAGES", needs)
    assert setup.missing(["here"]) == {}
    assert list(setup.missing(["here", "away"])) == ["a", "b", "c"]


def test_tools_of_the_virtualenv_come_first():
    assert setup.environment()["PATH"].startswith(f"{ROOT}/.venv/bin:")


@pytest.mark.parametrize("lines", [["ansible==1"], ["ansible==1", "click==8"]])
def test_a_virtualenv_is_made_once_per_list(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    calls = []
    monkeypatch.setattr(setup, "call", lambda command, what: calls.append(what))
    folder, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    folder.mkdir()
    requirements.write_text("first==1")
    setup.make_virtualenv(folder, requirements)
    assert calls == ["cannot make venv", "uv failed"]
    setup.make_virtualenv(folder, requirements)
    assert calls == ["cannot make venv", "uv failed"]
    requirements.write_text("\n".join(lines))
    setup.make_virtualenv(folder, requirements)
    assert calls == ["cannot make venv", "uv failed", "uv failed"]


def test_no_sudo_is_a_problem_with_a_fix(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup.shutil, "which", lambda program: None)
    with pytest.raises(Problem, match="installing gpg needs root") as problem:
        setup.as_root("installing gpg", "true")
    assert "run make as root" in problem.value.fix


def test_help_names_every_target_of_the_makefile():
    shown = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^  make ([a-z-]+) +\S", shown.stdout, re.MULTILINE)) == targets


def test_an_old_python_is_told_what_to_do():
    program = (ROOT / "tests/run.py").read_text()
    old = f"import sys; sys.version_info = (3, 9); exec({program!r})"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"^Problem: .* is needed\.\nFix: .*make PYTHON=", done.stderr)


@pytest.mark.parametrize(("exhaustive", "has_browser"), [(False, False), (True, True)])
def test_only_who_tests_all_gets_a_browser(monkeypatch, exhaustive, has_browser):
    groups = []
    monkeypatch.setattr(setup, "prepare", lambda *names: groups.extend(names))
    monkeypatch.setattr(setup, "need_root_without_questions", lambda: None)
    monkeypatch.setattr(suite, "run", lambda checks: 0)
    monkeypatch.setattr(suite, "quick_tests", list)
    suite.test(exhaustive)
    assert ("browser" in groups) is has_browser
    assert {*setup.EVERYTHING} <= {*groups}


def test_a_computer_without_what_it_takes_is_told_in_two_lines(tmp_path):
    """Here it has nothing in its PATH, neither podman nor apt-get."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/run.py", "tool", "true"],
        env={"PATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    problem, fix = done.stderr.splitlines()
    assert re.match(r"Problem: .*\bpodman\b.*: not installed, .* has no apt-get\.", problem)
    assert re.match(r"Fix: install what Debian calls .*\bpodman\b", fix)


def test_options_of_pytest_of_the_work_before_leave_no_test_out(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    command = ["sh", "-c", 'test -z "${PYTEST_ADDOPTS+set}"']
    assert suite.perform(suite.Check("x", command, tmp_path, is_pytest=False)).verdict == "passed"
