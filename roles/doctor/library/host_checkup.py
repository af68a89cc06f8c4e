#!/usr/bin/python
"""Look at a running host without changing it: updates, reboot, firewall, certificates, units."""

from __future__ import annotations

import calendar
import contextlib
import json
import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_look import alerts

LISTS = Path("/var/lib/apt/lists")
REBOOT_REQUIRED = Path("/run/reboot-required")
# What every mapped library that is no longer on the disk looks like in /proc/PID/maps.
REPLACED_LIBRARY = re.compile(r"/lib.*\.so.* \(deleted\)$", re.MULTILINE)
BACKUP_SETTINGS = Path("/etc/slipway/backup/settings.json")
BACKUP_STATUS = Path("/var/lib/slipway/backup/status.json")
# The archive that a package comes from, in apt's simulation; its name may say the same.
SECURITY = r"\(.*-security"
NOT_AFTER = "%b %d %H:%M:%S %Y GMT"


def updates(module: AnsibleModule) -> dict:
    """Count the packages that wait for an upgrade, by the lists that the host has."""
    # Without apt's caches, which it would write.
    caches = ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    command = ["apt-get", "--simulate", "--quiet", *caches, "dist-upgrade"]
    code, output, error = module.run_command(command, environ_update={"LC_ALL": "C.UTF-8"})
    waiting = [line for line in output.splitlines() if line.startswith("Inst ")]
    fetched = [path.stat().st_mtime for path in LISTS.glob("*Release")]
    return {
        "error": error.strip() if code != 0 else "",
        "security": [line.split()[1] for line in waiting if re.search(SECURITY, line, re.I)],
        "others": sum(not re.search(SECURITY, line, re.I) for line in waiting),
        "age_hours": round((time.time() - max(fetched)) / 3600, 1) if fetched else None,
    }


def old_programs() -> list[str]:
    """Name the programs that run with a library which was replaced on the disk."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            if REPLACED_LIBRARY.search((process / "maps").read_text()):
                found.add((process / "comm").read_text().strip())
    return sorted(found)


def reboot() -> dict:
    """Tell whether an upgrade asked for a reboot, which packages did, and who runs old code."""
    packages = REBOOT_REQUIRED.with_name("reboot-required.pkgs")
    asked_by = packages.read_text().split() if packages.exists() else []
    return {
        "required": REBOOT_REQUIRED.exists(),
        "packages": sorted(set(asked_by)),
        "programs": old_programs(),
    }


def closed_chains(module: AnsibleModule) -> list[str] | None:
    """List the chains that drop what comes in and is not allowed; None without nftables."""
    nft = module.get_bin_path("nft")  # also looks into /usr/sbin
    if nft is None:
        return None
    _, output, _ = module.run_command([nft, "--json", "list", "chains"])
    chains = [item["chain"] for item in json.loads(output or "{}").get("nftables", ())
              if "chain" in item]  # fmt: skip
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "input" and chain.get("policy") == "drop"
    ]


def certificates(folder: str, module: AnsibleModule) -> list[dict]:
    """Return name, days left and issuer of each certificate that is there."""
    found = []
    for path in sorted(Path(folder).glob("*/fullchain.pem")):
        show = ["openssl", "x509", "-noout", "-enddate", "-subject", "-issuer", "-in", str(path)]
        code, output, error = module.run_command(show)
        said = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        one = {"name": path.parent.name, "path": str(path), "error": error.strip() if code else ""}
        if code == 0:
            end = calendar.timegm(time.strptime(said["notAfter"], NOT_AFTER))
            one["days_left"] = int((end - time.time()) // 86400)
            one["self_signed"] = said["subject"] == said["issuer"]
        found.append(one)
    return found


def failed_units(module: AnsibleModule) -> list[str]:
    """Name the units of systemd that have failed."""
    ask = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend"]
    _, output, _ = module.run_command(ask)
    return [line.split()[0] for line in output.splitlines() if line.strip()]


def backup() -> dict | None:
    """Return what the host's own check of its backup last found; None where there is no backup."""
    if not BACKUP_SETTINGS.exists():
        return None
    if not BACKUP_STATUS.exists():
        return {}
    age = time.time() - BACKUP_STATUS.stat().st_mtime
    return {"age_minutes": round(age / 60), **json.loads(BACKUP_STATUS.read_text())}


def addresses(module: AnsibleModule) -> list[str]:
    """Return the host's own addresses, loopback left out."""
    _, output, _ = module.run_command(["ip", "-json", "address", "show", "scope", "global"])
    links = json.loads(output or "[]")
    return [one["local"] for link in links for one in link.get("addr_info", ()) if "local" in one]


def main() -> None:
    """Answer with what was seen; nothing is judged here."""
    module = AnsibleModule(
        argument_spec={"certificates_folder": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        updates=updates(module),
        reboot=reboot(),
        closed_chains=closed_chains(module),
        certificates=certificates(module.params["certificates_folder"], module),
        failed_units=failed_units(module),
        backup=backup(),
        alerts=alerts(),
        addresses=addresses(module),
    )


if __name__ == "__main__":
    main()
