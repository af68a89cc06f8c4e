"""From one release to another, forwards and back: start, gate, switch, stop."""

from __future__ import annotations

import time

from ansible.module_utils.release_health import must_live, state, wait_until_healthy
from ansible.module_utils.release_schema import database_of
from ansible.module_utils.releases import (
    Application,
    ReleaseError,
    now,
    put_on_disk,
    replace_symlink,
    run,
)

# How long a command must live to be taken for started.
COMMAND_SECONDS = 1.0
# After so long nginx has closed what it kept and did not use: keepalive_timeout in nginx.conf.j2.
LET_GO_SECONDS = 0.7


def start(app: Application, release: str, gate: dict) -> str:
    """Start a release and wait until it may take traffic: beside the one that serves, or after it.

    Where both share one socket (low memory) the old one stops first; new connections wait in the
    kernel meanwhile. If the new one fails, the old one is started again.

    :returns: the release that served before.
    :raises ReleaseError: where an instance or a command of it does not live and answer.
    """
    before = app.current()
    hand_over = before not in ("", release) and app.socket(before) == app.socket(release)
    if hand_over:
        app.must_import(release, gate["seconds"])
    try:
        if hand_over:
            let_connections_go(app, before)
            run(["systemctl", "stop", *app.units(before)])
        start_units(app, release, gate)
    except ReleaseError:
        if hand_over:
            app.stop(app.units(release), kill=True)
            start_units(app, before, gate)
        raise
    return before


def start_units(app: Application, release: str, gate: dict) -> None:
    """Start gunicorn, pass its gate, then start the commands."""
    units = app.units(release)
    run(["systemctl", "start", "--no-block", units[0]])
    wait_until_healthy(app, release, gate)
    if not units[1:]:
        return
    run(["systemctl", "start", *units[1:]], timeout=gate["seconds"])
    time.sleep(COMMAND_SECONDS)
    for unit in units[1:]:
        must_live(unit)


def switch(app: Application, release: str, drain_seconds: float) -> None:
    """Let all new requests go to a release; then stop what served before."""
    before = app.current()
    is_beside = before not in ("", release) and app.socket(before) != app.socket(release)
    # Enabled first: whenever the power goes, what `current` names starts at boot.
    run(["systemctl", "enable", "--quiet", *app.units(release), f"{app.name}.target"])
    if state(f"{app.name}.target")["ActiveState"] != "active":  # else it would start the old one
        run(["systemctl", "start", f"{app.name}.target"])
    app.record(release, switched=now(), rolled_back="")
    if is_beside:
        let_connections_go(app, before)
    replace_symlink(app.current_link, app.folder(release))
    put_on_disk(app.root)
    if is_beside:
        time.sleep(drain_seconds)
    app.stop_all_but(release)


def let_connections_go(app: Application, release: str) -> None:
    """Have an instance give up the connections that nginx keeps to it.

    From the signal on each ends with its next response, and those that are not used are closed by
    nginx meanwhile. So from the switch on, every request goes to the new release.
    """
    app.signal(release, "SIGURG")
    time.sleep(LET_GO_SECONDS)


def roll_back(app: Application, settings: dict) -> dict:
    """Return to an earlier release, without a build, through the same gate.

    :param settings: `to` (or "" for the previous one), `accept_schema`, `gate`, `drain_seconds`.
    :raises ReleaseError: where there is none, its schema differs, or it does not get healthy; the
        current release then goes on serving.
    """
    current = app.current()
    release = choose(app, settings["to"])
    if not settings["accept_schema"]:
        must_fit_schema(app, release)
    try:
        start(app, release, settings["gate"])
    except ReleaseError as error:
        journal = app.journal(release)
        app.stop(app.units(release), kill=True)
        raise ReleaseError(f"{error}\n{journal}\nServing: {current}.") from None
    # Marked first: whenever the power goes, it is not chosen again.
    if app.built(release) < app.built(current):
        app.record(current, rolled_back=now())
    switch(app, release, settings["drain_seconds"])
    return {"release": release, "before": current}


def choose(app: Application, wanted: str) -> str:
    """Return the release to go back to.

    :raises ReleaseError: where there is none, or none of that name.
    """
    current = app.current()
    others = [release for release in app.releases() if release != current]
    earlier = [
        release
        for release in others
        if app.built(release) < app.built(current) and not app.manifest(release).get("rolled_back")
    ]
    if wanted in others:
        return wanted
    if not wanted and earlier:
        return max(earlier, key=app.built)
    problem = f"There is no release {wanted}" if wanted else "There is no earlier release"
    raise ReleaseError(
        f"{problem} of {app.name} to go back to.\nSeen in: {app.root}/releases.\n"
        f"Allowed: {', '.join(others) or 'none yet'}; the current one is {current or 'none'}.\n"
        "Fix: ansible-playbook playbooks/list-releases.yml shows what there is; name one with "
        "-e flask_app_rollback_to=ID."
    )


def must_fit_schema(app: Application, release: str) -> None:
    """Refuse a release that was made for another schema than the database has now.

    :raises ReleaseError: naming both revisions.
    """
    made_for = app.manifest(release).get("schema")
    database = database_of(app, release)
    found = database.revision() if database and made_for is not None else None
    if found != made_for:
        later = [name for name in app.folders() if name > release]
        dump = next((app.dump(name) for name in later if app.dump(name).exists()), "none")
        points = [app.manifest(name).get("point") for name in later]
        point = next(filter(None, points), "none")
        raise ReleaseError(
            f"{release} was made for schema {made_for or 'none'}; the database has {found}.\n"
            "Seen in: its release.json and alembic_version.\nAllowed: the same revision.\n"
            "Fix: where the old code works with the new schema, "
            "-e flask_app_rollback_accepts_schema=true; where not, undo the migration first "
            f"(flask db downgrade {made_for or 'base'}), or restore the dump from before it: "
            f"{dump}; restore point of all databases: {point}."
        )
