"""A release comes from a folder, a tarball or a git repository at a version."""

import subprocess
import tarfile

import pytest
from conftest import on_server

testinfra_hosts = ["ansible://server"]


@pytest.fixture
def repository(good, tmp_path):
    """Make a repository with the application in a folder, a tag, and a branch that is ahead."""
    path = tmp_path / "repository"
    (path / "service").parent.mkdir(parents=True)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(path), *identity, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    subprocess.run(["cp", "-r", str(good.path), str(path / "service")], check=True)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "v1")
    (path / "service/more.txt").write_text("more\n")
    git("add", ".")
    git("commit", "-qm", "second")
    return f"git+file://{path}", git


def test_a_tag_and_a_branch_of_a_repository_are_released(host, play, repository, current):
    url, git = repository
    options = {"site_app_source": url, "flask_app_subfolder": "service"}
    play(flask_app_version="v1", **options)
    folder = f"/srv/webapp/releases/{current()}"
    assert git("rev-parse", "--short=12", "v1") in on_server(f"cat {folder}/release.json")
    assert on_server(f"ls {folder}/source/more.txt") == ""
    play(flask_app_version="main", **options)
    folder = f"/srv/webapp/releases/{current()}"
    assert on_server(f"cat {folder}/source/more.txt") == "more"
    assert git("rev-parse", "--short=12", "main") in play("list-releases")
    output = play(flask_app_version="v2", fails=True, **options)
    assert "has no v2" in output
    assert "its last tags: v1" in output


def test_a_tarball_is_released_without_its_top_folder(host, play, good, tmp_path, current):
    path = tmp_path / "app-1.0.tar.gz"
    (good.path / "packed.txt").write_text("from a tarball\n")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(good.path, "app-1.0")
    play(site_app_source=str(path))
    source = f"/srv/webapp/releases/{current()}/source"
    assert on_server(f"cat {source}/packed.txt") == "from a tarball"
    assert "version: app-1.0.tar.gz" in play("list-releases")


def test_requirements_without_hashes_are_installed(host, play, spoilt, current):
    lock = (spoilt.path / "requirements.in").read_text()
    (spoilt.path / "requirements.txt").write_text(lock)
    play(source=spoilt, flask_app_extra_requirements=["itsdangerous", "cowsay==6.1"])
    venv = f"/srv/webapp/releases/{current()}/venv"
    assert on_server(f"{venv}/bin/python -c 'import cowsay, flask; print(1)'") == "1"
