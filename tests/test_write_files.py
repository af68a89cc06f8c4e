"""Two runs that write the same files at once do not stumble; what is written over is named."""

import getpass
import glob
import grp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugins import load

write_files = load("base/library/write_files.py")


class Host:
    """A module's way to its host, on which another run is at work."""

    check_mode = False

    def __init__(self, params: dict, other):
        self.params, self.other, self.result = params, other, None

    def run_command(self, _command):
        """Let the other run do its work, and succeed."""
        self.other()
        return 0, "", ""

    def exit_json(self, **result):
        """Keep what the module returns."""
        self.result = result

    def fail_json(self, **result):
        """Fail the test."""
        pytest.fail(str(result))


def run(monkeypatch, params: dict, other=lambda: None) -> dict:
    """Run the module; `other` happens while it runs a command."""
    defaults = {"files": [], "remove": None, "apply": [], "services": []}
    host = Host({**defaults, **params}, other)
    monkeypatch.setattr(write_files, "AnsibleModule", lambda **_: host)
    write_files.main()
    return host.result


@pytest.fixture
def stamps(tmp_path, monkeypatch) -> Path:
    """Keep the stamps in a folder of the test."""
    monkeypatch.setattr(write_files, "STAMPS", tmp_path / "stamps")
    return tmp_path / "stamps"


@pytest.fixture
def ours(tmp_path) -> Path:
    """Make a file that is ours and no longer wanted."""
    path = tmp_path / "old.conf"
    path.write_text("# Source: roles/x/templates/old.conf.j2\n")
    return path


def test_the_stamp_may_have_been_removed_by_a_run_that_applied_the_same(stamps, ours, monkeypatch):
    def applied():
        for stamp in stamps.iterdir():
            stamp.unlink()

    remove = {"patterns": [str(ours)], "except": []}
    assert run(monkeypatch, {"apply": ["true"], "remove": remove}, applied)["changed"]
    assert not list(stamps.iterdir())


def test_a_unit_may_have_been_removed_by_another_run(stamps, ours, monkeypatch):
    monkeypatch.setattr(write_files, "UNITS", ours.parent)
    remove = {"patterns": [str(ours)], "except": []}
    assert run(monkeypatch, {"remove": remove}, ours.unlink)["files"] == [str(ours)]


def test_a_file_that_has_just_gone_is_not_surplus(tmp_path, monkeypatch):
    monkeypatch.setattr(glob, "glob", lambda _pattern: [str(tmp_path / "gone")])
    monkeypatch.setattr(Path, "is_file", lambda _path: True)  # it was, a moment ago
    assert write_files.surplus({"patterns": ["*"], "except": []}) == []


def test_only_what_is_ours_and_not_excepted_is_surplus(tmp_path, ours):
    (tmp_path / "foreign.conf").write_text("x\n")
    options = {"patterns": [str(tmp_path / "*.conf")], "except": []}
    assert write_files.surplus(options) == [ours]
    assert write_files.surplus({**options, "except": [str(ours)]}) == []


def test_a_run_that_fails_names_what_it_has_rewritten_by_then(tmp_path, stamps, monkeypatch):
    class Refused(Exception):
        pass

    def fail(_self, **result):
        raise Refused(result["rewritten"])

    old = tmp_path / "old"
    old.write_text("edited by hand\n")
    group = grp.getgrgid(os.getgid()).gr_name
    file = {"dest": str(old), "content": "x", "mode": "0644", "owner": getpass.getuser()}
    file |= {"group": group, "validate": ""}
    monkeypatch.setattr(Host, "run_command", lambda *_: (1, "", "no"))
    monkeypatch.setattr(Host, "fail_json", fail)
    with pytest.raises(Refused, match=str(old)):
        run(monkeypatch, {"files": [file], "apply": ["false"]})


def play(folder: Path, *options: str) -> str:
    """Write two files, of which one is there, by a task that hides what is in them."""
    ours = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
    names = ("old", "new")
    files = [{"dest": str(folder / name), "content": "secret", **ours} for name in names]
    task = {"write_files": {"files": files}, "no_log": True}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [task]}
    (folder / "play.json").write_text(json.dumps([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", *options, folder / "play.json"],
        env={**os.environ, "ANSIBLE_CONFIG": str(Path(__file__).parents[1] / "ansible.cfg")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_file_that_stood_otherwise_is_named_though_its_content_is_hidden(tmp_path):
    old = tmp_path / "old"
    old.write_text("edited by hand\n")
    this_python = f"ansible_python_interpreter={sys.executable}"
    said = play(tmp_path, "--check", "--diff", "-e", this_python)
    assert f"localhost: would rewrite {old}\n" in said
    assert old.read_text() == "edited by hand\n"
    said = play(tmp_path, "--diff", "-e", this_python)
    assert f"localhost: rewrote {old}\n" in said
    assert said.count("rewrote") == 1
    assert "secret" not in said
    assert old.read_text() == "secret\n"
    assert "rewrote" not in play(tmp_path, "-e", this_python)
