"""The source of an application is what git does not ignore, and its id is its content."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail

PLUGIN = Path(__file__).parents[1] / "roles/flask_app/action_plugins/app_source.py"
SPEC = importlib.util.spec_from_file_location("app_source", PLUGIN)
app_source = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(app_source)


@pytest.fixture
def source(tmp_path) -> Path:
    """Make a small application without git."""
    (tmp_path / "app.py").write_text("app = 1\n")
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance/secret").write_text("s")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/python").write_text("p")
    return tmp_path


def git(source: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", source, *identity, *arguments], check=True, capture_output=True)


def identity(source: Path) -> str:
    return app_source.content_id(source, app_source.source_files(source))


def test_without_git_the_usual_leftovers_stay_behind(source):
    assert app_source.source_files(source) == ["app.py"]
    assert app_source.revision(source) == "unversioned"


def test_with_git_what_it_ignores_stays_behind(source):
    (source / ".gitignore").write_text("*.log\n.venv/\ninstance/\n")
    (source / "run.log").write_text("x")
    (source / "new.py").write_text("x")
    git(source, "init", "-q")
    assert app_source.source_files(source) == [".gitignore", "app.py", "new.py"]


def test_a_deleted_file_is_not_shipped(source):
    git(source, "init", "-q")
    git(source, "add", "app.py")
    (source / "app.py").unlink()
    (source / "other.py").write_text("x")
    assert "app.py" not in app_source.source_files(source)


def test_the_revision_tells_of_changes_since(source):
    (source / ".gitignore").write_text(".venv/\ninstance/\n")
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "first")
    clean = app_source.revision(source)
    assert len(clean) == 12
    (source / "app.py").write_text("app = 2\n")
    assert app_source.revision(source) == f"{clean}-dirty"


def test_the_same_content_has_the_same_id(source, tmp_path_factory):
    twin = tmp_path_factory.mktemp("twin")
    (twin / "app.py").write_text("app = 1\n")
    os.utime(twin / "app.py", (0, 0))
    assert identity(source) == identity(twin)


@pytest.mark.parametrize("change", ["content", "name", "mode", "more"])
def test_another_content_has_another_id(source, change):
    before = identity(source)
    app = source / "app.py"
    if change == "content":
        app.write_text("app = 2\n")
    elif change == "name":
        app.rename(source / "main.py")
    elif change == "mode":
        app.chmod(0o755)
    else:
        (source / "more.py").write_text("")
    assert identity(source) != before


def test_a_repository_of_somebody_else_is_refused_with_a_fix(source, monkeypatch):
    refusal = "fatal: detected dubious ownership in repository at '/x'"

    def refuse(command, **_options):
        return subprocess.CompletedProcess(command, 128, "", refusal)

    monkeypatch.setattr(app_source.subprocess, "run", refuse)
    with pytest.raises(AnsibleActionFail, match=r"Fix: git config .* safe\.directory"):
        app_source.source_files(source)
