#!/usr/bin/python
"""Write several files, run what makes them true, see to their services: one step, one round trip.

ansible.builtin.template asks the host twice for each file on every run, and a handler is lost when
a run is killed between the two. Here a stamp stands on the host from before the first write until
`apply` has succeeded; a run that finds it applies again. Contents come from the template lookup.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import grp
import hashlib
import os
import pwd
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

STAMPS = Path("/var/lib/slipway")
UNITS = Path("/etc/systemd/system")
OURS = "# Source: roles/"  # stands at the head of each file that comes from a template
# What systemctl's is-enabled and is-active say yes to.
AT_BOOT = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}
ACTIVE = {"active", "reloading"}
MANY_BYTES = 2**20  # no diff is shown of more


def state(path: Path) -> tuple[str, int, str, str] | None:
    """Return content, mode, owner and group of a file, or None where there is none."""
    if not path.is_file():
        return None
    seen = path.stat()
    owner, group = pwd.getpwuid(seen.st_uid).pw_name, grp.getgrgid(seen.st_gid).gr_name
    content = path.read_text(errors="replace") if seen.st_size <= MANY_BYTES else ""
    return content, seen.st_mode & 0o7777, owner, group


def wanted(options: dict) -> tuple[str, int, str, str]:
    """Return the content, mode, owner and group that a file shall have."""
    content = options["content"].rstrip("\n") + "\n"
    return content, int(options["mode"], 8), options["owner"], options["group"]


def write(
    path: Path, new: tuple[str, int, str, str], validate: str, module: AnsibleModule, told: dict
) -> None:
    """Put a file in its place by a rename, once its validator accepts it, or fail with `told`."""
    content, mode, owner, group = new
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            os.fchown(descriptor, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        if validate:
            code, out, error = module.run_command(validate.replace("%s", name))
            if code != 0:
                said = f"{path} was not written: {validate} said:\n{out}{error}"
                module.fail_json(msg=said, **told)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def difference(path: Path, old: tuple | None, new: tuple) -> dict:
    """Return what changes, in the form that --diff prints."""
    before = old[0].splitlines(keepends=True) if old else []
    after = new[0].splitlines(keepends=True)
    lines = list(difflib.unified_diff(before, after, str(path), str(path)))
    if not lines:
        lines = [f"{path}: mode, owner, group {old[1:]} -> {new[1:]}\n"]
    return {"prepared": "".join(lines)}


def run(command: str, module: AnsibleModule, told: dict) -> None:
    """Run a command that must succeed; else fail, with `told`."""
    code, out, error = module.run_command(command)
    if code != 0:
        module.fail_json(msg=f"{command} ended with {code}:\n{out}{error}", **told)


def surplus(options: dict | None) -> list[Path]:
    """Return the files that match a pattern and are not excepted; only such as we wrote."""
    if options is None:
        return []
    found = {name for pattern in options["patterns"] for name in glob.glob(pattern)}
    paths = map(Path, sorted(found - set(options["except"])))
    return [path for path in paths if is_ours(path)]


def is_ours(path: Path) -> bool:
    """Tell whether a file comes from a template; one that another run has just removed does not."""
    with contextlib.suppress(FileNotFoundError):
        return path.is_file() and OURS in path.read_text(errors="replace")
    return False


def remove(path: Path, module: AnsibleModule) -> None:
    """Remove a file; a unit of systemd is stopped before, and does not start at boot again."""
    if path.parent == UNITS and "@" not in path.name:
        module.run_command(["systemctl", "disable", "--now", "--quiet", path.name])
    path.unlink(missing_ok=True)


def to_be_started(services: list[str], module: AnsibleModule) -> list[tuple[str, str]]:
    """Return what it takes to have services run now and at boot; nothing where they do."""
    if not services:
        return []
    _, told, _ = module.run_command(
        ["systemctl", "show", "--property=UnitFileState", "--property=ActiveState", *services]
    )
    orders = []
    for service, lines in zip(services, told.strip().split("\n\n"), strict=True):
        seen = dict(line.split("=", 1) for line in lines.splitlines())
        if seen["UnitFileState"] not in AT_BOOT:
            orders.append(("enable", service))
        if seen["ActiveState"] not in ACTIVE:
            orders.append(("start", service))
    return orders


def is_starting(service: str, module: AnsibleModule) -> bool:
    """Tell whether systemd is about to start a service, for what has just been applied."""
    _, job, _ = module.run_command(["systemctl", "show", "--property=Job", "--value", service])
    return job.strip() not in ("", "0")


def main() -> None:
    """Compare every file with what it shall be, write those that differ, and apply them."""
    file_options = {
        "dest": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "validate": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": file_options,
            },
            "remove": {
                "type": "dict",
                "options": {
                    "patterns": {"type": "list", "elements": "path", "required": True},
                    "except": {"type": "list", "elements": "path", "default": []},
                },
            },
            "apply": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    files, apply = module.params["files"], module.params["apply"]
    seen = {Path(options["dest"]): (state(Path(options["dest"])), options) for options in files}
    changes = {path: (old, opt) for path, (old, opt) in seen.items() if old != wanted(opt)}
    stamp = STAMPS / hashlib.sha256(" ".join([*apply, *map(str, seen)]).encode()).hexdigest()[:16]
    gone = surplus(module.params["remove"])
    pending = bool(apply) and (bool(changes or gone) or stamp.exists())
    to_start = to_be_started(module.params["services"], module)
    result = {
        "changed": bool(changes or gone or pending or to_start),
        "files": sorted(map(str, [*changes, *gone])),
        "rewritten": sorted(str(path) for path, (old, _) in changes.items() if old),
        "diff": [difference(path, old, wanted(opt)) for path, (old, opt) in changes.items()]
        + [{"prepared": f"{path}: removed\n"} for path in gone],
    }
    if module.check_mode:
        module.exit_json(**result)
    if pending:
        STAMPS.mkdir(mode=0o755, exist_ok=True)
        stamp.write_text("\n".join(apply) + "\n")
    told = {"rewritten": []}
    for path, (old, options) in changes.items():
        write(path, wanted(options), options["validate"], module, told)
        if old:
            told["rewritten"].append(str(path))
    for path in gone:
        remove(path, module)
    if pending:
        for command in apply:
            run(command, module, told)
        stamp.unlink(missing_ok=True)  # another run may have applied the same
    for verb, service in to_start:
        if verb == "enable" or not is_starting(service, module):
            run(f"systemctl {verb} {service}", module, told)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
