#!/usr/bin/python
"""One phase of a release on the host; the phases, in order, are in tasks/phases.yml."""

from __future__ import annotations

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release_build import build
from ansible.module_utils.release_lock import WAIT_SECONDS, LockHeldError, ReleaseLock
from ansible.module_utils.release_plan import listed, need_disk, plan
from ansible.module_utils.release_restart import restart
from ansible.module_utils.release_schema import migrate
from ansible.module_utils.release_switch import roll_back, start, switch
from ansible.module_utils.releases import Application, ReleaseError


def build_new(app: Application, lock: ReleaseLock) -> dict:
    """Build the release that was planned."""
    build(app, lock.content)
    return {}


def migrate_database(app: Application, lock: ReleaseLock) -> dict:
    """Migrate, if the application has a command for it."""
    settings = lock.content["settings"]["migration"]
    return migrate(app, lock.content["release"], settings) if settings["command"] else {}


def start_new(app: Application, lock: ReleaseLock) -> dict:
    """Start the release that was built."""
    start(app, lock.content["release"], lock.content["settings"]["gate"])
    return {}


def switch_to_new(app: Application, lock: ReleaseLock) -> dict:
    """Switch to the release that was built, prune, and write the log."""
    release, settings = lock.content["release"], lock.content["settings"]
    switch(app, release, settings["drain_seconds"])
    return {"pruned": app.prune(settings["keep"])}


def finish(app: Application, lock: ReleaseLock, action: str, **facts) -> dict:
    """Write the log and give the lock back; return what the person who released wants to know."""
    release = lock.content["release"]
    result = {
        "action": action,
        "release": release,
        "revision": app.manifest(release).get("revision", ""),
        "seconds": lock.content.get("seconds", {}),
        **facts,
    }
    app.write_log(by=lock.content["holder"], **result)
    lock.give_back()
    return result


def abort(app: Application, lock: ReleaseLock, failed: str) -> dict:
    """Remove a release that did not become current; return what its instance last said."""
    release = lock.content["release"]
    journal = app.journal(release)
    revision = lock.content["settings"]["source"]["revision"]
    if app.current() != release:
        app.remove(release)
    facts = {"revision": revision, "phase": failed, "serving": app.current() or "nothing yet"}
    result = finish(app, lock, "failed", **facts)
    return {**result, "journal": journal}


PHASES = {
    "build": build_new,
    "migrate": migrate_database,
    "start": start_new,
    "switch": switch_to_new,
}
# What is healthy is switched to at once.
FOLLOWED_BY = {"start": "switch"}


def begin(app: Application, lock: ReleaseLock, options: dict) -> dict:
    """Take the lock, clean up after a run that was killed, and plan."""
    if lock.is_of_before_restart():
        app.forget_downloads()
    took_over = lock.take(options["holder"], options["gone"])
    lock.write(phase="plan")
    removed = app.remove_incomplete() + app.stop_all_but(app.current())
    result = plan(app, options["settings"])
    result |= {"changed": bool(result["needed"] or removed), "removed": removed}
    if not result["needed"]:
        lock.give_back()
        return {**result, "took_over": took_over}
    try:
        need_disk(app, options["settings"])
    except ReleaseError:
        lock.give_back()
        raise
    facts = {name: result[name] for name in ("release", "fingerprint")}
    lock.write(settings=options["settings"], seconds={}, **facts)
    return {**result, "took_over": took_over}


def go_back(app: Application, lock: ReleaseLock, options: dict) -> dict:
    """Roll back to what the settings name."""
    return roll_back(app, options["settings"])


def start_anew(app: Application, lock: ReleaseLock, options: dict) -> dict:
    """Start the current release beside itself, and switch."""
    return restart(app, options["settings"], options["holder"])


# Phases that are a whole run: what they do, what the log calls it, and where they came from.
WHOLE = {
    "rollback": (go_back, "rolled back", "rolled_back_from"),
    "restart": (start_anew, "restarted", "restarted_from"),
}


def do_whole(app: Application, lock: ReleaseLock, options: dict) -> dict:
    """Take the lock, do it, and give the lock back whatever happens."""
    phase = options["phase"]
    do, action, origin = WHOLE[phase]
    took_over = lock.take(options["holder"], options["gone"])
    lock.write(phase=phase)
    began = time.monotonic()
    try:
        app.remove_incomplete()
        result = do(app, lock, options)
    except Exception:
        serving = app.current()
        app.write_log(by=options["holder"], action=f"{phase} failed", serving=serving)
        lock.give_back()
        raise
    lock.write(release=result["release"], seconds={phase: seconds_since(began)})
    done = finish(app, lock, action, **{origin: result["before"]})
    return {**done, "changed": True, "took_over": took_over}


def seconds_since(began: float) -> float:
    """Return the seconds since a reading of the monotonic clock."""
    return round(time.monotonic() - began, 2)


def perform(app: Application, lock: ReleaseLock, options: dict) -> dict:
    """Do one phase, alone on this host."""
    phase = options["phase"]
    if phase == "plan":
        return begin(app, lock, options)
    if phase in WHOLE:
        return do_whole(app, lock, options)
    if phase == "unlock":
        held = lock.content
        lock.give_back()
        return {"changed": bool(held), "held": held}
    lock.must_belong_to(options["holder"])
    if phase == "abort":
        return {"changed": True, **abort(app, lock, lock.content["phase"])}
    result = {"changed": True}
    while phase:
        lock.write(phase=phase)
        began = time.monotonic()
        result |= PHASES[phase](app, lock)
        lock.write(seconds={**lock.content["seconds"], phase: seconds_since(began)})
        phase = FOLLOWED_BY.get(phase)
    if "pruned" in result:
        result |= finish(app, lock, "released")
    return result


def main() -> None:
    """Run the phase that the task names."""
    module = AnsibleModule(
        argument_spec={
            "phase": {
                "type": "str",
                "required": True,
                "choices": [
                    *("plan", "build", "migrate", "start"),
                    *("abort", "rollback", "restart", "list", "unlock"),
                ],
            },
            "app": {"type": "str", "required": True},
            "settings": {"type": "dict", "default": {}},
            "holder": {"type": "dict"},
            "gone": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    options = module.params
    app = Application(options["app"])
    try:
        if options["phase"] == "list":
            result = {"releases": listed(app)}
        elif module.check_mode:
            result = plan(app, options["settings"]) if options["phase"] == "plan" else {}
            result["changed"] = result.get("needed", True)
        else:
            wait = WAIT_SECONDS if options["gone"] else 0
            with ReleaseLock(app.root / "release.lock", app.name).alone(wait) as lock:
                result = perform(app, lock, options)
    except LockHeldError as error:
        module.fail_json(msg=str(error), holder=error.holder)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
