"""Read an application's source on the control node, and bring it to the host."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Left behind where no git says what belongs to the source.
LEFT_BEHIND = {".git", ".venv", "venv", "__pycache__", "node_modules", "instance", ".pytest_cache"}


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


class ActionModule(ActionBase):
    """`source` alone tells id and revision; with `dest` the source is packed and brought there."""

    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        """Return `id` (SHA-256 of the content), `revision` and `files` (their number)."""
        super().run(tmp, task_vars)
        source = Path(self._task.args["source"]).expanduser().resolve()
        if not source.is_dir():
            raise AnsibleActionFail(
                f"{source} is not a folder.\nSeen in: flask_app_source.\n"
                "Allowed: the folder of a Flask application on this computer.\n"
                "Fix: correct site_app_source in your inventory."
            )
        names = source_files(source)
        if not names:
            raise AnsibleActionFail(
                f"{source} has no files.\nSeen in: flask_app_source.\nAllowed: a folder with files "
                "that git does not ignore.\nFix: correct site_app_source in your inventory."
            )
        result = {"changed": False, "id": content_id(source, names), "files": len(names)}
        result["revision"] = revision(source)
        if destination := self._task.args.get("dest"):
            with tempfile.NamedTemporaryFile(suffix=".tar.gz") as packed:
                with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
                    for name in names:
                        archive.add(source / name, name, recursive=False)
                packed.flush()
                self._transfer_file(packed.name, destination)
            result["changed"] = True
        return result
