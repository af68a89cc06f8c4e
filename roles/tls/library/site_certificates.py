#!/usr/bin/python
"""Give each site a certificate that nginx can read: provided, the CA's, or a self-signed one.

Until the CA has signed one for it, a site with the mode acme serves with a self-signed one, so that
nginx always starts.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tls_store import LIVE, SITES, Store, read_pair

SELF_SIGNED_DAYS = 3650
MOST_COMMON_NAME = 64  # characters that X.509 allows there


class Wanted(NamedTuple):
    """The folder that a site shall read; chain and key where it is yet to be written."""

    target: Path
    chain: str = ""
    key: str = ""


def provided_pair(site: dict, module: AnsibleModule, store: Store) -> tuple[Wanted, list[str]]:
    """Return the pair that was brought along, and what is doubtful about it; refuse half of one."""
    chain = module.params["provided_chains"][site["name"]]
    key = module.params["provided_keys"][site["name"]]
    draft = Path(module.tmpdir)
    for name, text in (("fullchain.pem", chain), ("privkey.pem", key)):
        (draft / name).touch(mode=0o600)
        (draft / name).write_text(text.strip() + "\n")
    certificate = read_pair(draft, module.run_command)
    if certificate is None:
        module.fail_json(
            msg=f"The certificate for {site['name']} and its key do not belong together.\n"
            "Seen in: tls_certificate_file, tls_private_key_file.\n"
            "Allowed: PEM; the site's certificate first, then those between it and the root; its "
            "key without a passphrase.\n"
            "Fix: name the two files that were made for each other."
        )
    target = store.pair_path(site["name"], "provided", chain, key)
    whole = read_pair(target, module.run_command) is not None
    return Wanted(target, *(() if whole else (chain, key))), doubts(site, certificate)


def doubts(site: dict, certificate) -> list[str]:
    """Return what browsers will say of a provided certificate."""
    found = []
    if uncovered := [name for name in site["names"] if not certificate.covers(name)]:
        found.append(f"lacks {', '.join(uncovered)}")
    if certificate.ends < time.time():
        found.append(f"ended on {certificate.last_day}")
    return [f"The certificate for {site['name']} {doubt}." for doubt in found]


def self_signed_pair(site: dict, module: AnsibleModule, store: Store) -> Wanted:
    """Return the self-signed pair that the site has, or a new one."""
    names = site["names"] or [socket.gethostname()]
    current = store.target(site["name"])
    if current and current.name.startswith(f"{site['name']}.selfsigned-"):
        certificate = read_pair(current, module.run_command)
        lasts = certificate and certificate.ends > time.time() + 30 * 86400
        if lasts and certificate.names == frozenset(names):
            return Wanted(current)
    chain, key = Path(module.tmpdir, "fullchain.pem"), Path(module.tmpdir, "privkey.pem")
    command = ["openssl", "req", "-x509", "-nodes", "-days", str(SELF_SIGNED_DAYS)]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", f"/CN={names[0][:MOST_COMMON_NAME]}"]
    command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)]
    module.run_command([*command, "-keyout", str(key), "-out", str(chain)], check_rc=True)
    texts = chain.read_text(), key.read_text()
    return Wanted(store.pair_path(site["name"], "selfsigned", *texts), *texts)


def main() -> None:
    """Write what is missing, and switch the links."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "sites": SITES,
            "provided_chains": {"type": "dict", "required": True},
            # Not a key within each chain's entry: Ansible would log that.
            "provided_keys": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    store = Store(module.params["path"], module.run_command)
    wanted = {}
    for site in module.params["sites"]:
        live = LIVE / site["name"]
        if site["mode"] == "provided":
            wanted[site["name"]], warnings = provided_pair(site, module, store)
            for warning in warnings:
                module.warn(warning)
        elif site["mode"] == "acme" and read_pair(live, module.run_command):
            wanted[site["name"]] = Wanted(live)
        else:
            wanted[site["name"]] = self_signed_pair(site, module, store)

    changes = {name: pair for name, pair in wanted.items() if store.target(name) != pair.target}
    changes |= {name: pair for name, pair in wanted.items() if pair.key}
    pending = store.is_pending() or any(
        not store.path.joinpath(f"{name}.conf").exists() for name in wanted
    )
    result = {"changed": bool(changes or pending)}
    if module._diff and changes:
        lines = [f"{store.path / name} -> {pair.target}\n" for name, pair in changes.items()]
        result["diff"] = {"prepared": "".join(lines)}
    if module.check_mode or not result["changed"]:
        module.exit_json(**result)
    store.begin()
    for name, pair in changes.items():
        if pair.key:
            store.write_pair(pair.target, pair.chain, pair.key)
        store.switch(name, pair.target)
    # If nginx refuses now, its own settings are to blame, which its role writes next; the run asks
    # again at its end, and then a refusal counts.
    store.apply()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
