"""The source of an application is what git does not ignore, and its id is its content."""

import hashlib
import io
import os
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail

from plugins import load

app_source = load("flask_app/action_plugins/app_source.py")


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


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Make a repository with the application in a folder, a tag, and a branch that is ahead."""
    monkeypatch.setattr(app_source, "CACHE", tmp_path / "cache")
    path = tmp_path / "repository"
    (path / "service").mkdir(parents=True)
    (path / "service/app.py").write_text("app = 1\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", ".")
    git(path, "commit", "-qm", "first")
    git(path, "tag", "v1")
    (path / "service/app.py").write_text("app = 2\n")
    git(path, "commit", "-qam", "second")
    return path


def packed(source, tmp_path) -> dict[str, str]:
    """Pack a source; return its files and what is in them."""
    archive = tmp_path / "packed.tar.gz"
    source.pack(archive)
    with tarfile.open(archive) as members:
        return {it.name: members.extractfile(it).read().decode() for it in members if it.isreg()}


def test_a_repository_gives_the_version_that_is_asked_for(repository, tmp_path):
    url = f"git+file://{repository}"
    tagged, ahead = (app_source.read(url, version, "service") for version in ("v1", "main"))
    assert packed(tagged, tmp_path) == {"app.py": "app = 1\n"}
    assert packed(ahead, tmp_path) == {"app.py": "app = 2\n"}
    assert app_source.read(url, "", "service").id == ahead.id != tagged.id
    assert app_source.read(url, tagged.pin, "service").revision == tagged.revision


def test_a_branch_that_moved_is_fetched_again(repository, tmp_path):
    url = f"git+file://{repository}"
    before = app_source.read(url, "main", "service")
    (repository / "service/app.py").write_text("app = 3\n")
    git(repository, "commit", "-qam", "third")
    assert packed(app_source.read(url, "main", "service"), tmp_path) == {"app.py": "app = 3\n"}
    assert packed(app_source.read(url, before.pin, "service"), tmp_path) == {"app.py": "app = 2\n"}


def test_applications_that_come_at_once_share_one_clone(repository):
    url = f"git+file://{repository}"
    for round_ in range(3):  # the first clones, the others fetch
        (repository / "service/app.py").write_text(f"app = 1{round_}\n")
        git(repository, "commit", "-qam", "next")
        git(repository, "branch", f"branch{round_}")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(app_source.read, [url] * 8, ["main"] * 8, ["service"] * 8))
        assert len({source.id for source in found}) == 1


def cached(repository) -> Path:
    """Return where the clone of a repository stands, or will."""
    name = hashlib.sha256(f"file://{repository}".encode()).hexdigest()[:16]
    return app_source.CACHE / "git" / name


def test_an_empty_folder_in_the_cache_harms_no_repository_around_it(repository, tmp_path):
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "around")
    git(tmp_path, "branch", "precious")
    git(tmp_path, "checkout", "-q", "--detach")
    cached(repository).mkdir(parents=True)
    source = app_source.read(f"git+file://{repository}", "v1", "service")
    assert packed(source, tmp_path) == {"app.py": "app = 1\n"}
    git(tmp_path, "rev-parse", "--verify", "precious")


def test_what_a_killed_clone_left_is_made_whole(repository, tmp_path):
    for folder in (cached(repository), cached(repository).with_name("new")):
        git(tmp_path, "init", "-q", "-b", "elsewhere", "--bare", str(folder))
    cached(repository).with_name("new").rename(f"{cached(repository)}.new")
    source = app_source.read(f"git+file://{repository}", "", "service")
    assert packed(source, tmp_path) == {"app.py": "app = 2\n"}


def test_what_a_killed_fetch_left_is_made_whole(repository, tmp_path):
    url = f"git+file://{repository}"
    app_source.read(url, "main", "service")
    (cached(repository) / "refs/heads").mkdir(exist_ok=True)
    (cached(repository) / "refs/heads/main.lock").touch()
    (repository / "service/app.py").write_text("app = 3\n")
    git(repository, "commit", "-qam", "third")
    assert packed(app_source.read(url, "main", "service"), tmp_path) == {"app.py": "app = 3\n"}


def test_a_pinned_revision_is_served_without_its_repository(repository, tmp_path):
    url = f"git+file://{repository}"
    pin = app_source.read(url, "v1", "service").pin
    repository.rename(tmp_path / "gone")
    assert packed(app_source.read(url, pin, "service"), tmp_path) == {"app.py": "app = 1\n"}
    with pytest.raises(AnsibleActionFail, match="cannot be fetched"):
        app_source.read(url, "main", "service")
    assert packed(app_source.read(url, pin, "service"), tmp_path) == {"app.py": "app = 1\n"}


@pytest.mark.parametrize(
    ("version", "subfolder", "said"),
    [("v2", "", "has no v2"), ("v1", "nowhere", "has no folder nowhere")],
)
def test_what_a_repository_lacks_is_named(repository, version, subfolder, said):
    with pytest.raises(AnsibleActionFail, match=said):
        app_source.read(f"git+file://{repository}", version, subfolder)


def test_a_password_in_a_url_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(app_source, "CACHE", tmp_path)
    with pytest.raises(AnsibleActionFail) as refused:
        app_source.read("https://ana:hunter2@127.0.0.1:9/shop.git", "", "")
    assert "hunter2" not in str(refused.value)


def tarball(tmp_path, names: list[str]) -> Path:
    path = tmp_path / "app-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"x\n"))
    return path


def test_the_folder_that_holds_all_of_a_tarball_is_left_out(tmp_path):
    long = "/".join(["a_folder_with_a_long_name"] * 8) + "/module.py"
    path = tarball(tmp_path, ["app-1.0/app.py", f"app-1.0/{long}"])
    assert set(packed(app_source.read(str(path), "", ""), tmp_path)) == {"app.py", long}
    assert set(packed(app_source.read(str(path), "", "a_folder_with_a_long_name"), tmp_path)) == {
        long.partition("/")[2]
    }


def test_a_tarball_cannot_write_elsewhere(tmp_path):
    source = app_source.read(str(tarball(tmp_path, ["app/x.py", "app/../../../evil"])), "", "")
    with pytest.raises(AnsibleActionFail, match="stay within the source"):
        packed(source, tmp_path)


def test_a_tarball_must_be_the_one_that_was_meant(tmp_path):
    path = tarball(tmp_path, ["app/x.py"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert app_source.read(f"{path}#sha256={digest}", "", "").revision == digest[:12]
    with pytest.raises(AnsibleActionFail, match="is not what it should be"):
        app_source.read(f"{path}#sha256={'0' * 64}", "", "")


def test_only_a_repository_has_versions(source, tmp_path):
    for place in (source, tarball(tmp_path, ["app/x.py"])):
        with pytest.raises(AnsibleActionFail, match="has no versions"):
            app_source.read(str(place), "v1", "")


@pytest.fixture
def bring(tmp_path):
    """Return a function: bring 2 MB to a path of this computer, as an ssh that must not break."""

    def run(destination: str) -> None:
        def execute(command: str, in_data: bytes) -> dict:
            pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
            with subprocess.Popen(["sh", "-c", command], **pipes) as shell:
                shell.stdin.write(in_data)  # BrokenPipeError where it is not read to its end
                shell.stdin.close()
                said = shell.stderr.read().decode()
            return {"rc": shell.returncode, "stderr": said}

        action = object.__new__(app_source.ActionModule)
        action._low_level_execute_command = execute
        archive = tmp_path / "source.tar.gz"
        archive.write_bytes(b"x" * 2**21)
        action.bring(archive, destination)

    return run


def test_an_archive_is_brought_and_nobody_else_reads_it(bring, tmp_path):
    bring(f"{tmp_path}/a file")
    assert (tmp_path / "a file").read_bytes() == b"x" * 2**21
    assert (tmp_path / "a file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("destination", "cause"), [("/dev/full", "No space left"), ("/nowhere/file", "nonexistent")]
)
def test_a_host_that_cannot_write_it_is_heard_and_not_lost(bring, destination, cause):
    with pytest.raises(AnsibleActionFail, match=f"did not arrive: .*{cause}"):
        bring(destination)
