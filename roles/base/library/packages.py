#!/usr/bin/python
"""Install Debian packages in one transaction of apt-get.

ansible.builtin.apt first installs python3-apt on a host that lacks it, opens apt's cache on every
run, cannot look at a fresh host in check mode, and stops at an interrupted dpkg.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

LISTS = Path("/var/lib/apt/lists")
FIX = (
    "Seen in: the answers of the servers in /etc/apt/sources.list and sources.list.d.\n"
    "Allowed: packages that they have, while they can be reached.\n"
    "Fix: correct a name that is wrong; else mend DNS (getent hosts deb.debian.org), the way to "
    "the server or base_http_proxy. Run again then: it goes on from there."
)
# What apt-get and dpkg end with where another process holds a lock.
HELD = re.compile(
    r"^E: Could not get lock ([^\s.]+).*|^dpkg: error: (.+) (?:is|was) locked by another process.*",
    re.MULTILINE,
)
LOOK_SECONDS = 2
CONFIGURE = ["dpkg", "--configure", "--pending"]
RUNTIME_UNITS = Path("/run/systemd/system")  # gone after a reboot, whatever happens before


def missing(module: AnsibleModule, names: list[str]) -> list[str]:
    """Return the packages that are not installed, or only half."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Abbrev}\n", *names]
    _, output, _ = module.run_command(query)
    installed = {line.split()[0] for line in output.splitlines() if line.split()[1:] == ["ii"]}
    return [name for name in names if name not in installed]


def lists_are_older_than(hours: int) -> bool:
    """Tell whether the package lists are missing or too old."""
    fetched = [path.stat().st_mtime for path in LISTS.glob("*Packages*")]
    fetched += [path.stat().st_mtime for path in LISTS.glob("*InRelease")]
    return not fetched or time.time() - max(fetched) > hours * 3600


def interrupted(module: AnsibleModule) -> bool:
    """Tell whether dpkg was stopped in the middle of its work."""
    _, audit, _ = module.run_command(["dpkg", "--audit"])
    return bool(audit.strip()) or any(Path("/var/lib/dpkg/updates").iterdir())


def do(step: list[str], module: AnsibleModule) -> str:
    """Run a step; again while another process holds a lock, for as long as the inputs allow.

    DPkg::Lock::Timeout waits for dpkg's locks only, and only in apt-get.

    :returns: what went wrong, or "".
    """
    # LANGUAGE, which some systems heed before C.UTF-8, would translate what HELD looks for.
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
    seconds = module.params["lock_timeout_seconds"]
    deadline = time.monotonic() + seconds
    # While another dpkg is at work ours looks interrupted.
    while step != CONFIGURE or interrupted(module):
        code, output, error = module.run_command(step, environ_update={**os.environ, **environment})
        if code == 0:
            break
        held = HELD.search(output + error)
        if not held:
            said = "\n".join((output + error).strip().splitlines()[-30:])
            return f"{' '.join(step)} ended with {code}:\n{said}\n{FIX}"
        if time.monotonic() >= deadline:
            return (
                f"Another process has held {held[1] or held[2]} for {seconds} s.\n"
                f"Seen in: {' '.join(step)}: {held[0]}\n"
                "Allowed: one apt or dpkg at a time.\n"
                "Fix: wait until it has ended (ps -C apt-get,apt,dpkg,unattended-upgr shows it), "
                "and run again; or raise base_apt_lock_timeout_seconds and "
                "flask_app_apt_lock_timeout_seconds."
            )
        time.sleep(LOOK_SECONDS)
    return ""


@contextlib.contextmanager
def held_back(services: list[str], module: AnsibleModule) -> Iterator[None]:
    """Keep services from starting while their packages are installed.

    A new service would run with its package's settings until its role has written ours: at best it
    is started twice, at worst it can be reached meanwhile. Services that run already are let be.
    """
    masks = [
        RUNTIME_UNITS / f"{service}.service"
        for service in services
        if module.run_command(["systemctl", "--quiet", "is-active", service])[0] != 0
    ]
    for mask in masks:
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    try:
        yield
    finally:
        for mask in masks:
            mask.unlink(missing_ok=True)
        if masks:
            module.run_command(["systemctl", "daemon-reload"])


def main() -> None:
    """Say what is missing, and unless in check mode install it."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "start_later": {"type": "list", "elements": "str", "default": []},
            "cache_hours": {"type": "int", "required": True},
            "lock_timeout_seconds": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    names = missing(module, module.params["names"])
    result = {"changed": bool(names), "missing": names}
    if module._diff and names:
        result["diff"] = {"prepared": "".join(f"+ package {name}\n" for name in names)}
    if module.check_mode or not names:
        module.exit_json(**result)

    wait = f"DPkg::Lock::Timeout={module.params['lock_timeout_seconds']}"
    # One sync at the end instead of one for each file; what a power cut could spoil before it are
    # files of the new packages only.
    options = ["force-confdef", "force-confold", "force-unsafe-io"]
    dpkg = [part for option in options for part in ("-o", f"Dpkg::Options::=--{option}")]
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "-o", wait]
    steps = [CONFIGURE, [*install, *dpkg, *names]]
    if lists_are_older_than(module.params["cache_hours"]):
        # Without the translated descriptions, which only people read.
        update = ["apt-get", "update", "--quiet", "--error-on=any", "-o", "Acquire::Languages=none"]
        steps.insert(0, [*update, "-o", wait])
    with held_back(module.params["start_later"], module):
        for step in steps:
            if problem := do(step, module):
                module.fail_json(msg=problem, **result)
    os.sync()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
