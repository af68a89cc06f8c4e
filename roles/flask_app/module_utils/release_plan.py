"""What is to be released, and what was: the comparison of what should run with what runs."""

from __future__ import annotations

import os
import time

from ansible.module_utils.release_health import state
from ansible.module_utils.releases import Application, ReleaseError, run, text_hash

# The first virtualenv of an application, before there is one to look at.
VIRTUALENV_MIB = 150


def plan(app: Application, settings: dict) -> dict:
    """Compare what should run with what runs, and name the next release if they differ."""
    source = settings["source"]
    fingerprint = {
        "source": source["id"],
        "environment": text_hash(app.configuration / "environment"),
        "gunicorn.conf.py": text_hash(app.configuration / "gunicorn.conf.py"),
        "units": text_hash(*app.unit_files()),
        "requirements": [settings["requirements"], *settings["extra_requirements"]],
        "psycopg2": settings["psycopg2"],
        "python": run([settings["python"], "--version"]).strip(),
    }
    current = app.current()
    before = app.manifest(current).get("fingerprint", {})
    reasons = [f"{name} changed" for name, new in fingerprint.items() if before.get(name) != new]
    if not current:
        reasons = ["first release"]
    elif not reasons and not app.is_active(current):
        reasons = [f"{app.unit(current)} or one of its commands does not run"]
    refused = rolled_back_from(app, source["id"]) if reasons else ""
    if refused and not settings["again"]:
        reasons = []
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    release = f"{stamp}-{source['id'][:7]}"
    return {
        "needed": bool(reasons),
        "reasons": reasons,
        "refused": refused if not reasons else "",
        "release": release,
        "archive": str(app.archive(release)),
        "current": current,
        "fingerprint": fingerprint,
    }


def rolled_back_from(app: Application, source_id: str) -> str:
    """Return the release with this source that somebody has rolled back from, or ""."""
    for release in reversed(app.releases()):
        manifest = app.manifest(release)
        if manifest["fingerprint"]["source"] == source_id:
            return release if manifest.get("rolled_back") else ""
    return ""


def need_disk(app: Application, settings: dict) -> None:
    """Refuse a release that the disk would not hold, before anything of it is there.

    :raises ReleaseError: where less is free than the release takes and `minimum_disk_mib`.
    """
    virtualenv = app.folder(app.current()) / "venv" if app.current() else None
    sizes = (path.lstat().st_size for path in virtualenv.rglob("*")) if virtualenv else ()
    virtualenv_mib = sum(sizes) / 2**20 or VIRTUALENV_MIB
    source_mib = settings["source"]["bytes"] / 2**20
    needed = round(2 * source_mib + virtualenv_mib + settings["minimum_disk_mib"])
    disk = os.statvfs(app.root)
    free = disk.f_bavail * disk.f_frsize // 2**20
    if free < needed:
        raise ReleaseError(
            f"The disk has {free} MiB free; a release of {app.name} needs {needed} MiB.\n"
            f"Seen in: {app.root}.\nAllowed: twice the source ({source_mib:.0f} MiB), a virtualenv "
            f"({virtualenv_mib:.0f} MiB) and flask_app_minimum_disk_mib.\n"
            "Fix: free space (journalctl --vacuum-size=100M), lower flask_app_keep_releases, or "
            "enlarge the disk."
        )


def listed(app: Application) -> list[dict]:
    """Return what is known of each release, the newest first."""

    def what(release: str, manifest: dict) -> str:
        if release == app.current():
            return "serves" if state(app.unit(release))["ActiveState"] == "active" else "is down"
        if manifest.get("rolled_back"):
            return f"rolled back from at {manifest['rolled_back']}"
        return "kept" if manifest.get("switched") else "incomplete"

    return [
        {
            "release": release,
            "revision": manifest.get("revision", ""),
            "version": manifest.get("version", ""),
            "by": "{user}@{host}".format(**manifest["by"]) if "by" in manifest else "",
            "switched": manifest.get("switched", ""),
            "schema": manifest.get("schema", ""),
            "state": what(release, manifest),
        }
        for release in reversed(app.folders())
        for manifest in [app.manifest(release)]
    ]
