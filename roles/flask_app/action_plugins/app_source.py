"""Read an application's source on the control node, and bring it to the host.

A source is a folder, a tarball (a file or a URL) or a git repository (a URL, at a version).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase

# Left behind where no git says what belongs to the source.
LEFT_BEHIND = {".git", ".venv", "venv", "__pycache__", "node_modules", "instance", ".pytest_cache"}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
TARBALL = re.compile(r"\.(tar|tar\.gz|tgz|tar\.xz|tar\.bz2)(#.*)?$")
GIT = re.compile(r"^(git\+|git@|git://|ssh://|file://|https?://)|\.git$")
GIT_SECONDS = 300


def git(source: Path, *arguments: str) -> str | None:
    """Run git in the source folder.

    :returns: its output, or None where the folder is in no repository or git is not installed.
    :raises AnsibleActionFail: where git refuses a repository that belongs to another user.
    """
    try:
        done = subprocess.run(["git", "-C", source, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    if "dubious ownership" in done.stderr:
        raise AnsibleActionFail(
            f"git does not trust {source}.\nSeen in: {done.stderr.strip().splitlines()[0]}\n"
            "Allowed: a repository of the user who runs Ansible.\n"
            f"Fix: git config --global --add safe.directory {source}"
        )
    return done.stdout if done.returncode == 0 else None


def source_files(source: Path) -> list[str]:
    """List the files of the source, relative to it and sorted; what git ignores is left out."""
    listed = git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        found = []
        for name in set(listed.split("\0")) - {""}:
            path = source / name
            if path.is_dir() and not path.is_symlink():  # a submodule
                found += [f"{name}/{inner}" for inner in source_files(path)]
            elif os.path.lexists(path):
                found.append(name)
        return sorted(found)
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in LEFT_BEHIND]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.relpath(os.path.join(folder, name), source) for name in names + links]
    return sorted(found)


def content_id(source: Path, names: list[str]) -> str:
    """Compute the SHA-256 over names, executable bits and contents."""
    digest = hashlib.sha256()
    for name in names:
        path = source / name
        if path.is_symlink():
            kind, content = "link", os.readlink(path).encode()
        else:
            kind, content = "run" if os.access(path, os.X_OK) else "file", path.read_bytes()
        digest.update(f"{kind} {len(content)} {name}\0".encode() + content)
    return digest.hexdigest()


def revision(source: Path) -> str:
    """Name the git revision, `-dirty` where it was changed since, or `unversioned`."""
    head = git(source, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unversioned"
    return head.strip() + ("-dirty" if git(source, "status", "--porcelain", "--", ".") else "")


class Folder:
    """A folder on this computer."""

    def __init__(self, source: str, version: str, subfolder: str):
        self.path = Path(source).expanduser().resolve() / subfolder
        if not self.path.is_dir():
            raise AnsibleActionFail(
                f"{self.path} is not a folder.\nSeen in: flask_app_source.\n"
                "Allowed: a folder or a tarball on this computer, a URL of a tarball, a git URL.\n"
                "Fix: correct site_app_source in your inventory."
            )
        if version:
            raise AnsibleActionFail(
                f"{self.path} is a folder, which has no versions.\nSeen in: flask_app_version.\n"
                "Allowed: a version only with a git URL.\n"
                f"Fix: remove flask_app_version, or write git+file://{self.path}."
            )
        self.names = source_files(self.path)
        if not self.names:
            raise AnsibleActionFail(
                f"{self.path} has no files.\nSeen in: flask_app_source.\nAllowed: a folder with "
                "files that git does not ignore.\nFix: correct site_app_source in your inventory."
            )
        self.id = content_id(self.path, self.names)
        self.revision, self.version, self.pin = revision(self.path), "", ""
        self.bytes = sum((self.path / name).lstat().st_size for name in self.names)

    def pack(self, archive: Path) -> None:
        """Pack the source."""
        with tarfile.open(archive, mode="w:gz", compresslevel=6) as packed:
            for name in self.names:
                packed.add(self.path / name, name, recursive=False)


class Tarball:
    """A tarball on this computer or at a URL; a single folder that holds all is left out."""

    def __init__(self, source: str, version: str, subfolder: str):
        if version:
            raise AnsibleActionFail(
                f"{source} is a tarball, which has no versions.\nSeen in: flask_app_version.\n"
                "Allowed: a version only with a git URL.\nFix: remove flask_app_version."
            )
        place, _, wanted = source.partition("#sha256=")
        self.path = self._fetch(place, wanted) if "://" in place else Path(place).expanduser()
        if not self.path.is_file():
            raise AnsibleActionFail(
                f"There is no {self.path}.\nSeen in: flask_app_source.\n"
                "Allowed: a tarball on this computer.\n"
                "Fix: correct site_app_source in your inventory."
            )
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        if wanted and digest != wanted:
            raise AnsibleActionFail(
                f"{place} is not what it should be.\nSeen in: its SHA-256, {digest}.\n"
                f"Allowed: {wanted}.\nFix: correct what stands after #sha256= in site_app_source."
            )
        self.id = hashlib.sha256(f"{digest} {subfolder}".encode()).hexdigest()
        self.revision = digest[:12]
        self.version, self.pin = Path(place).name, version
        with tarfile.open(self.path) as archive:
            members = archive.getmembers()
        tops = {member.name.partition("/")[0] for member in members}
        alone = len(tops) == 1 and any("/" in member.name for member in members)
        self.prefix = "/".join([*(tops if alone else ()), *filter(None, [subfolder.strip("/")])])
        self.bytes = sum(member.size for member in members)

    @staticmethod
    def _fetch(url: str, wanted: str) -> Path:
        name = hashlib.sha256(f"{url} {wanted}".encode()).hexdigest()[:16]
        path = CACHE / "tarballs" / f"{name}-{Path(url).name}"
        if not (wanted and path.exists()):  # without a hash it may have changed
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                content = open_url(url, timeout=60).read()
            except OSError as error:
                raise AnsibleActionFail(
                    f"{url} cannot be fetched: {error}.\nSeen in: flask_app_source.\n"
                    "Allowed: a URL that this computer reaches.\n"
                    "Fix: correct site_app_source in your inventory, or mend the network."
                ) from None
            new = path.with_suffix(f".{os.getpid()}")
            new.write_bytes(content)
            new.rename(path)
        return path

    def pack(self, archive: Path) -> None:
        """Pack the source, without the folder that holds all."""
        with tarfile.open(self.path) as given, tarfile.open(archive, mode="w:gz") as packed:
            for member in given:
                inner = member.name
                if self.prefix:
                    if not inner.startswith(f"{self.prefix}/"):
                        continue
                    inner = inner[len(self.prefix) + 1 :]
                self._refuse_elsewhere(member, inner)
                # A new one: the old one's pax headers would bring a long name back.
                new = tarfile.TarInfo(inner)
                new.mode, new.mtime, new.linkname = member.mode, member.mtime, member.linkname
                new.type, new.size = member.type, member.size
                packed.addfile(new, given.extractfile(member) if member.isreg() else None)

    def _refuse_elsewhere(self, member: tarfile.TarInfo, name: str) -> None:
        """Refuse what would be written elsewhere; the tarfile of Debian 12 has no filters yet."""
        target = os.path.join(os.path.dirname(name), member.linkname) if member.issym() else name
        is_inside = not os.path.isabs(target) and os.path.normpath(target).split("/")[0] != ".."
        if (
            ".." in name.split("/")
            or not is_inside
            or not (member.isreg() or member.isdir() or member.issym())
        ):
            raise AnsibleActionFail(
                f"{self.path} holds {member.name}.\nSeen in: flask_app_source.\n"
                "Allowed: files, folders and symlinks that stay within the source.\n"
                "Fix: pack the source anew, without it."
            )


class Repository:
    """A git repository at a tag, a branch or a revision; fetched here, where the keys are."""

    def __init__(self, source: str, version: str, subfolder: str):
        self.url = source.removeprefix("git+")
        self.shown = re.sub(r"//[^/@]*@", "//", self.url)  # without a password
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = CACHE / "git" / name
        with self._alone():
            self._look(version, subfolder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process that wants the same repository waiting outside."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{self.folder}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _look(self, version: str, subfolder: str) -> None:
        self.commit = self._commit(version) if re.fullmatch(r"[0-9a-f]{40}", version) else ""
        if not self.commit:
            self._fetch()
            self.commit = self._commit(version or "HEAD")
        if not self.commit:
            known = (self._inside("tag") or "").split()[-5:]
            raise AnsibleActionFail(
                f"{self.shown} has no {version}.\nSeen in: flask_app_version.\n"
                f"Allowed: a tag, a branch or a revision; its last tags: {', '.join(known)}.\n"
                "Fix: correct flask_app_version, or push what it names."
            )
        self.tree = f"{self.commit}:{subfolder.strip('/')}"
        self.id = (self._inside("rev-parse", self.tree) or "").strip()
        if not self.id:
            raise AnsibleActionFail(
                f"{self.shown} has no folder {subfolder} at {self.commit[:12]}.\n"
                "Seen in: flask_app_subfolder.\nAllowed: a folder of the repository.\n"
                "Fix: correct flask_app_subfolder."
            )
        if self._inside("cat-file", "-e", f"{self.commit}:.gitmodules") is not None:
            raise AnsibleActionFail(
                f"{self.shown} has submodules.\nSeen in: .gitmodules.\nAllowed: a repository "
                "without.\nFix: clone it with --recurse-submodules and name the folder."
            )
        self.revision, self.version, self.pin = self.commit[:12], version, self.commit
        sizes = (self._inside("ls-tree", "-r", "-l", self.tree) or "").splitlines()
        self.bytes = sum(int(line.split()[3]) for line in sizes if line.split()[3].isdigit())

    def _git(self, *arguments: str) -> str | None:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=GIT_SECONDS,
        )
        self.said = re.sub(r"//[^/@]*@", "//", done.stderr.strip())
        return done.stdout if done.returncode == 0 else None

    def _inside(self, *arguments: str) -> str | None:
        # Not -C: from a folder that is no repository git would go up to one around it.
        return self._git(f"--git-dir={self.folder}", *arguments)

    def _commit(self, version: str) -> str:
        found = self._inside("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
        return (found or "").strip()

    def _fetch(self) -> None:
        """Bring the clone up to date; make it anew where a git that was killed left it broken."""
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        fetch = ["fetch", "--quiet", "--prune", "--force", self.url, *refs]
        if self._commit("HEAD") and self._inside(*fetch) is not None:
            return
        new = Path(f"{self.folder}.new")
        shutil.rmtree(new, ignore_errors=True)
        if self._git("clone", "--quiet", "--bare", self.url, str(new)) is None:
            raise AnsibleActionFail(
                f"{self.shown} cannot be fetched.\nSeen in: git said: {self.said}\n"
                "Allowed: a repository that this computer may read without being asked.\n"
                "Fix: correct site_app_source, or give this computer a key (ssh-add)."
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        new.rename(self.folder)

    def pack(self, archive: Path) -> None:
        """Pack the source at its revision."""
        pack = ["archive", "--format=tar.gz", f"--output={archive}", self.tree]
        with self._alone():
            done = self._inside(*pack)
        if done is None:
            raise AnsibleActionFail(f"{self.shown} cannot be packed: {self.said}")


def read(source: str, version: str, subfolder: str) -> Folder | Tarball | Repository:
    """Find out what kind of source this is, and look at it."""
    kind = Tarball if TARBALL.search(source) else Repository if GIT.search(source) else Folder
    return kind(source, version, subfolder)


class ActionModule(ActionBase):
    """Tell what the source is; with `dest`, pack it and bring it to the host."""

    def run(self, tmp=None, task_vars=None):
        """Return `id` (of the content), `revision`, `version`, `pin` (the same again), `bytes`."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        try:
            source = read(arguments["source"], arguments["version"], arguments["subfolder"])
        except FileNotFoundError as error:
            raise AnsibleActionFail(f"{error.filename} is not installed here.") from None
        except subprocess.TimeoutExpired as late:
            raise AnsibleActionFail(f"git took more than {late.timeout:.0f} s.") from None
        names = ("id", "revision", "version", "pin", "bytes")
        result = {"changed": False, **{name: getattr(source, name) for name in names}}
        if source.id != arguments.get("id", source.id):
            raise AnsibleActionFail(
                "The source was changed while it was released.\nFix: run again."
            )
        if destination := arguments.get("dest"):
            with tempfile.TemporaryDirectory() as folder:
                archive = Path(folder, "source.tar.gz")
                source.pack(archive)
                self.bring(archive, destination)
            result["changed"] = True
        return result

    def bring(self, archive: Path, destination: str) -> None:
        """Write the archive as root does: who logs in may not, and sftp knows no sudo.

        What cannot be written is read all the same: Ansible may take a host that stops reading for
        one that is lost, and would take nothing back.

        :raises AnsibleActionFail: where the host cannot write it.
        """
        write = f"umask 077; cat >{shlex.quote(destination)} || {{ cat >/dev/null; false; }}"
        done = self._low_level_execute_command(write, in_data=archive.read_bytes())
        if done["rc"] != 0:
            raise AnsibleActionFail(f"The source did not arrive: {done['stderr'].strip()}")
