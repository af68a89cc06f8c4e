"""Start what serves anew: as another instance beside it, through the same gate and switch."""

from __future__ import annotations

import os
import re
import time

from ansible.module_utils.release_switch import start, switch
from ansible.module_utils.releases import Application, ReleaseError, run, write_text

# What the copy gets of its own; the rest of what is recorded stays true of it.
OF_ITS_OWN = {"release", "by", "switched", "rolled_back", "restarted_from"}


def restart(app: Application, settings: dict, holder: dict) -> dict:
    """Put a copy of the current release into its place; the next run removes the old one.

    The copy consists of hard links and has a name of its own, so it has its own socket, too: the
    old instance serves until the new one is healthy.

    :param settings: `gate`, `drain_seconds`.
    :raises ReleaseError: where there is none yet, or it does not get healthy; then the old one
        serves on.
    """
    before = app.serving()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    release = f"{stamp}-{before.rpartition('-')[2]}"
    copy(app, before, release, holder)
    try:
        start(app, release, settings["gate"])
    except ReleaseError as error:
        journal = app.journal(release)
        app.remove(release)
        raise ReleaseError(f"{error}\n{journal}\nServing: {before}.") from None
    switch(app, release, settings["drain_seconds"])
    if app.dump(before).exists():
        app.dump(before).rename(app.dump(release))
    # Commands may still run in its folder, so that stays until the next run; it cannot serve again.
    (app.folder(before) / "release.json").unlink()
    return {"release": release, "before": before}


def copy(app: Application, before: str, release: str, holder: dict) -> None:
    """Make the folder of a release that is another one but for its name."""
    old, new = app.folder(before), app.folder(release)
    new.mkdir()
    parts = [str(old / name) for name in ("source", "venv", "gunicorn.conf.py")]
    run(["cp", "--archive", "--link", *parts, str(new)])
    name = f'RELEASE_ID="{release}"'
    text = (old / "environment").read_text()
    text = re.sub(r"^RELEASE_ID=.*$", name, text, flags=re.MULTILINE)
    write_text(new / "environment", text, mode=0o640)
    os.chown(new / "environment", 0, app.owner()[1])
    socket = app.socket(before)
    is_own = socket.stem == before
    (new / "gunicorn.sock").symlink_to(socket.with_stem(release) if is_own else socket)
    facts = {key: value for key, value in app.manifest(before).items() if key not in OF_ITS_OWN}
    app.record(release, **facts, release=release, by=holder, restarted_from=before)
