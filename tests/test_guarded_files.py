"""The guard of what one logs in through keeps its word while two runs are at work."""

import os
import shlex
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from plugins import load

guarded_files = load("base/library/guarded_files.py")

LONG = 0.5  # seconds that a step takes in which another run may come


class Host:
    """What two runs share: files, and a timer that never fires by itself."""

    check_mode = False

    def __init__(self):
        self.timer = threading.Event()

    def run_command(self, command):
        """Run a command; systemd is no more than the timer."""
        words = shlex.split(command) if isinstance(command, str) else command
        if "is-active" in words:
            return (0 if self.timer.is_set() else 3), "", ""
        if words[0] == "systemd-run":
            self.timer.set()
        elif words[:2] == ["systemctl", "stop"]:
            self.timer.clear()
        elif words[0] != "systemctl":
            done = subprocess.run(words, capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr
        return 0, "", ""

    def fail_json(self, **result):
        """Fail as a module does."""
        raise SystemExit(str(result))


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Keep the guard in a folder of the test; what goes to the disk takes LONG."""
    folder, lock = tmp_path / "guard", tmp_path / "lock"
    unit = tmp_path / "system/slipway-guard.service"
    unit.parent.mkdir()
    places = {
        "GUARD": folder,
        "TOKEN": folder / "token",
        "SAVED": folder / "saved",
        "RESTORE": folder / "restore",
        "UNIT": unit,
        "WANTED": unit.parent / "wants" / unit.name,
        "LOCK": lock,
    }
    old = {name: getattr(guarded_files, name, lock) for name in places}
    for text in ("UNIT_TEXT", "RESTORE_HEAD", "RESTORE_TAIL"):
        value = getattr(guarded_files, text)
        for name in ("WANTED", "UNIT", "LOCK", "GUARD"):
            value = value.replace(str(old[name]), str(places[name]))
        monkeypatch.setattr(guarded_files, text, value)
    for name, place in places.items():
        monkeypatch.setattr(guarded_files, name, place, raising=False)
    monkeypatch.setattr(guarded_files.os, "sync", lambda: time.sleep(LONG))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Host()


@pytest.fixture
def sshd(tmp_path):
    """Make a file of settings."""
    path = tmp_path / "sshd.conf"
    path.write_text("old\n")
    return path


def options(path, content: str, **more) -> dict:
    user, group = path.owner(), path.group()
    file = {"dest": str(path), "content": content, "mode": "0644", "owner": user, "group": group}
    file |= {"validate": "", "keep_lines": False}
    lists = {name: [] for name in ("users", "check", "apply", "undo", "services")}
    return {**lists, "files": [file], "save": "", "in_force": "", "seconds": 20, **more}


def begin(host: Host, *what, **more) -> dict:
    return guarded_files.Guard(host).begin(options(*what, **more))


def confirm(host: Host, begun: dict) -> dict:
    return guarded_files.Guard(host).confirm(begun["token"], [])


def test_what_is_being_confirmed_is_not_put_back_by_a_run_that_waits(host, sshd):
    begun = begin(host, sshd, "new")
    with ThreadPoolExecutor() as pool:
        confirmed = pool.submit(confirm, host, begun)
        time.sleep(LONG / 4)
        second = pool.submit(begin, host, sshd, "new")
        assert confirmed.result()["changed"]
        assert not second.result()["changed"]
    assert sshd.read_text() == "new\n"


def test_what_nobody_confirmed_is_never_saved_as_old(host, sshd):
    with ThreadPoolExecutor() as pool:
        first = pool.submit(begin, host, sshd, "unconfirmed")
        time.sleep(LONG / 4)
        second = pool.submit(begin, host, sshd, "second")
        assert first.result()["guarded"]
        time.sleep(LONG)
        assert not second.done()
        host.timer.clear()  # nobody could log in: the run is gone, and so is its time
        assert second.result()["guarded"]
    assert (guarded_files.GUARD / "0").read_text() == "old\n"
    assert sshd.read_text() == "second\n"


def timer_fires() -> subprocess.Popen:
    """Do what systemd does once the time is over."""
    unit = guarded_files.UNIT_TEXT.replace("\\\n", " ")
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return subprocess.Popen(shlex.split(command.removeprefix("ExecStart=")))


def test_the_timer_waits_for_a_run_that_is_at_work(host, sshd):
    begin(host, sshd, "new")
    with guarded_files.Guard(host).alone():
        timer = timer_fires()
        time.sleep(LONG)
        assert sshd.read_text() == "new\n"
    assert timer.wait() == 0
    assert sshd.read_text() == "old\n"
    assert not guarded_files.GUARD.exists()


def test_the_timer_finds_nothing_to_do_after_a_confirmation(host, sshd):
    confirm(host, begin(host, sshd, "new"))
    assert timer_fires().wait() == 0
    assert sshd.read_text() == "new\n"


def test_the_timer_puts_back_even_where_a_run_hangs(host, sshd, monkeypatch):
    waits = guarded_files.UNIT_TEXT.replace("--wait 10", "--wait 0.5")
    monkeypatch.setattr(guarded_files, "UNIT_TEXT", waits)
    begin(host, sshd, "new")
    with guarded_files.Guard(host).alone():
        assert timer_fires().wait() == 0
        assert sshd.read_text() == "old\n"


def test_what_a_step_leaves_running_does_not_hold_the_lock(host, sshd, monkeypatch):
    monkeypatch.setattr(guarded_files, "LOCK_SECONDS", 1)
    sleep = shutil.which("sleep")
    background = f"sh -c '{sleep} 5 >/dev/null 2>&1 &'"
    begin(host, sshd, "new", apply=[background], undo=[background])
    assert timer_fires().wait() == 0
    with guarded_files.Guard(host).alone():
        assert sshd.read_text() == "old\n"


def test_a_lock_that_is_held_too_long_is_named_with_a_fix(host, sshd, monkeypatch):
    monkeypatch.setattr(guarded_files, "LOCK_SECONDS", 0)
    refusal = r"Another run .*Seen in: .*lock.*Allowed: .*Fix: "
    with guarded_files.Guard(host).alone(), pytest.raises(SystemExit, match=refusal):
        begin(host, sshd, "new")
    assert sshd.read_text() == "old\n"


def test_check_mode_waits_for_nobody(host, sshd, monkeypatch):
    monkeypatch.setattr(host, "check_mode", True, raising=False)
    monkeypatch.setattr(guarded_files, "LOCK_SECONDS", 0)
    with guarded_files.Guard(host).alone():
        assert begin(host, sshd, "new")["changed"]
    assert sshd.read_text() == "old\n"


def test_who_confirms_too_late_leaves_the_next_run_its_timer(host, sshd):
    late = begin(host, sshd, "new")
    assert timer_fires().wait() == 0
    host.timer.clear()
    begun = begin(host, sshd, "newer")
    with pytest.raises(SystemExit, match="the timer was faster"):
        confirm(host, late)
    assert host.timer.is_set()
    assert sshd.read_text() == "newer\n"
    assert confirm(host, begun)["changed"]


def test_who_takes_back_too_late_leaves_the_next_run_its_change(host, sshd):
    late = begin(host, sshd, "new")
    assert timer_fires().wait() == 0
    host.timer.clear()
    begun = begin(host, sshd, "newer")
    guarded_files.Guard(host).take_back(late["token"])
    assert sshd.read_text() == "newer\n"
    guarded_files.Guard(host).take_back(begun["token"])
    assert sshd.read_text() == "old\n"
