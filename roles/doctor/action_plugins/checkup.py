"""Look at the site from this computer and at the inventory, and judge all that was seen."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

ANY_NAME = "_"
BACKUP_CHECK_MINUTES_MAX = 1500  # the longest time between two looks, and some
HTTP, HTTPS = 80, 443
PLACEHOLDER = re.compile(
    r"change[ _-]?me|replace[ _-]?me|placeholder|\bexample\.(?:com|net|org)\b", re.IGNORECASE
)
SECRET_NAME = re.compile(r"(?:password|passwd|secret|token|key)$", re.IGNORECASE)
# What somebody wrote who wanted to go on; only where a secret belongs.
WEAK_SECRET = re.compile(r"(?:admin|letmein|pass(?:word)?|secret|test|[0-9]{1,8})", re.IGNORECASE)
# Ansible's own variables, where nobody writes a placeholder. These are exceptions.
ANSIBLES = re.compile(r"(?:__|ansible_|group|hostvars|inventory_|molecule_|omit|play|role_)")
CONNECTION_SECRET = re.compile(r"ansible_(?:become_)?(?:password|pass|ssh_pass)$")


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    state: str  # ok, off, warn or bad
    said: str
    fix: str = ""


def at_once(tasks: dict[str, Callable], seconds: float) -> dict:
    """Run functions side by side for some seconds.

    :param tasks: a function without arguments for each name.
    :param seconds: how long all of them may take together; nobody waits longer for a name server.
    :returns: for each name what its function returned, or the OSError that it raised.
    """
    answers = {name: TimeoutError(f"no answer within {seconds} s") for name in tasks}

    def run(name: str) -> None:
        try:
            answers[name] = tasks[name]()
        except (OSError, http.client.HTTPException) as error:
            answers[name] = error

    threads = [threading.Thread(target=run, args=[name], daemon=True) for name in tasks]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(answers)


def resolve(name: str) -> list[str]:
    """Return the addresses that a name has for this computer."""
    return sorted({row[4][0] for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})


def ask_site(address: str, domain: str, port: int, seconds: float) -> tuple[int, float]:
    """Ask for the first page; return the status and how many seconds it took.

    On port 443 by TLS, whatever the certificate is: that is judged by itself.
    """
    began = time.monotonic()
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    connection.connect()
    name = address if domain == ANY_NAME else domain
    if port == HTTPS:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        connection.sock = tls.wrap_socket(connection.sock, server_hostname=name)
    connection.request("GET", "/", headers={"Host": name})
    status = connection.getresponse().status
    connection.close()
    return status, time.monotonic() - began


def connect(address: str, port: int, seconds: float) -> bool:
    """Open a connection and close it."""
    socket.create_connection((address, port), timeout=seconds).close()
    return True


def judge_names(resolved: dict, own: set[str]) -> Iterator[Finding]:
    """Judge what each domain resolved to.

    :param resolved: addresses, or an error, for each domain.
    :param own: the addresses that are this host.
    """
    if not resolved:
        yield Finding("dns", "off", "site_domains names no domain.")
    for name, seen in resolved.items():
        if isinstance(seen, Exception):
            fix = f"add an A record, {name} to {' or '.join(sorted(own))}, where your domain is."
            yield Finding("dns", "bad", f"{name} does not resolve here: {seen}.", fix)
        elif own.isdisjoint(seen):
            fix = f"point {name} to {' or '.join(sorted(own))}, unless a CDN stands in front."
            yield Finding("dns", "warn", f"{name} is {', '.join(seen)}, not this host.", fix)
        else:
            yield Finding("dns", "ok", f"{name} is {', '.join(seen)}.")


def judge_ports(answers: dict[int, object]) -> Iterator[Finding]:
    """Judge which ports answered to this computer."""
    closed = [port for port, answer in answers.items() if isinstance(answer, Exception)]
    for port in closed:
        fix = "systemctl status nginx on the host; then its firewall, and the provider's."
        yield Finding("ports", "bad", f"{port} does not answer here: {answers[port]}.", fix)
    if answers and not closed:
        yield Finding("ports", "ok", f"{', '.join(map(str, answers))} answer here.")


def judge_site(domain: str, answer: object) -> Finding:
    """Judge the answer to a visitor of the first page."""
    fix = "systemctl status 'APP*' on the host; then docs/troubleshooting.md."
    if isinstance(answer, Exception):
        return Finding("site", "bad", f"{domain} does not answer: {answer}.", fix)
    status, seconds = answer
    said = f"{domain} answers {status} in {seconds:.2f} s."
    return Finding("site", "bad", said, fix) if status >= 500 else Finding("site", "ok", said)


def judge_certificates(seen: list[dict], warn_days: int, bad_days: int) -> Iterator[Finding]:
    """Judge how long each certificate is good."""
    fix = "ansible-playbook site.yml; then journalctl --unit 'certbot*' on the host."
    if not seen:
        yield Finding("certificate", "off", "there is none: the site is plain HTTP.")
    for one in seen:
        if one["error"]:
            yield Finding("certificate", "bad", f"{one['path']}: {one['error']}", fix)
            continue
        days, name = one["days_left"], one["name"]
        if days < 0:
            yield Finding("certificate", "bad", f"{name} expired {-days} days ago.", fix)
        elif days < warn_days:
            state = "bad" if days < bad_days else "warn"
            yield Finding("certificate", state, f"{name} expires in {days} days.", fix)
        elif one["self_signed"]:
            said = f"{name} is self-signed: browsers refuse it."
            yield Finding("certificate", "warn", said, fix)
        else:
            yield Finding("certificate", "ok", f"{name} is good for {days} days.")


def judge_updates(seen: dict, lists_max_hours: int) -> Finding:
    """Judge what waits for an upgrade, and how well this is known."""
    age = seen["age_hours"]
    if seen["error"]:
        fix = "apt-get check; dpkg --configure --pending on the host."
        return Finding("updates", "bad", f"apt-get cannot tell: {seen['error']}", fix)
    if age is None or age > lists_max_hours:
        known = "never" if age is None else f"{age / 24:.1f} days ago"
        fix = "apt-get update on the host; then systemctl status apt-daily.timer."
        return Finding("updates", "warn", f"last looked for {known}.", fix)
    if seen["security"]:
        said = f"{len(seen['security'])} security updates wait: {', '.join(seen['security'][:5])}"
        more = ", …" if len(seen["security"]) > 5 else ""
        fix = "they come within a day; at once: unattended-upgrade --verbose on the host."
        return Finding("updates", "warn", f"{said}{more}.", fix)
    return Finding("updates", "ok", f"no security update waits, {seen['others']} others do.")


def judge_reboot(seen: dict) -> Finding:
    """Judge whether old code runs."""
    reasons = ["an upgrade asked for it"] if seen["required"] else []
    reasons += [f"installed: {', '.join(seen['packages'])}"] if seen["packages"] else []
    reasons += [f"with a replaced library: {', '.join(seen['programs'])}"] * bool(seen["programs"])
    if reasons:
        fix = "reboot when it suits you; hardening_reboot does it at night."
        return Finding("reboot", "warn", f"needed ({'; '.join(reasons)}).", fix)
    return Finding("reboot", "ok", "not needed.")


def judge_firewall(chains: list[str] | None) -> Finding:
    """Judge whether something drops what nobody allowed."""
    if chains:
        return Finding("firewall", "ok", f"{', '.join(chains)} drops what is not allowed.")
    said = "nftables is not there." if chains is None else "no input chain has the policy drop."
    return Finding("firewall", "bad", said, "ansible-playbook site.yml.")


def judge_units(failed: list[str]) -> Finding:
    """Judge the services."""
    if failed:
        fix = f"systemctl status {failed[0]} on the host."
        return Finding("services", "warn", f"failed: {', '.join(failed)}.", fix)
    return Finding("services", "ok", "none has failed.")


def judge_backup(seen: dict | None) -> Iterator[Finding]:
    """Judge what the host's own check of backup, archive and drill has found.

    :param seen: its last findings; empty before the first, None where there is no backup.
    """
    if seen is None:
        yield Finding("backup", "warn", "not set up.", "site_backup: true, and site.yml.")
    elif not seen:
        fix = "wait some minutes; or systemctl start slipway-backup-check on the host."
        yield Finding("backup", "warn", "not looked at yet.", fix)
    elif seen["age_minutes"] > BACKUP_CHECK_MINUTES_MAX:
        fix = "systemctl status slipway-backup-check.timer on the host."
        said = f"nobody has looked at it for {seen['age_minutes']} minutes."
        yield Finding("backup", "bad", said, fix)
    else:
        lines = seen["lines"].items()
        for name, line in lines:
            if line["state"] != "ok":
                said = f"{name}: {' '.join(line['said'].split())}"
                yield Finding("backup", line["state"], said, line["fix"])
        if all(line["state"] == "ok" for _, line in lines):
            said = " ".join(line["said"] for _, line in lines)
            yield Finding("backup", "ok", said[0].upper() + said[1:])


def judge_alerts(seen: dict | None) -> Iterator[Finding]:
    """Judge what the monitoring of the host says is wrong.

    :param seen: which alerts are firing, or why nobody knows; None where nobody watches it.
    """
    if seen is None:
        yield Finding("alerts", "off", "nobody watches this host: site_monitoring is false.")
    elif seen["error"]:
        fix = "systemctl status prometheus on the host."
        yield Finding("alerts", "bad", f"{seen['error']}.", fix)
    elif not seen["firing"]:
        yield Finding("alerts", "ok", "none is firing.")
    for one in seen["firing"] if seen else ():
        state = "bad" if one["severity"] == "critical" else "warn"
        yield Finding("alerts", state, f"{one['alert']}: {one['said']}", f"{one['fix']}.")


def strings(value: object, name: str) -> Iterator[tuple[str, str]]:
    """Visit every string within a variable, with the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, name)
    elif isinstance(value, str):
        yield name, value
    elif "Encrypted" in type(value).__name__:
        try:
            yield name, str(value)
        except AnsibleError:
            return  # no vault password here: nobody can tell


def placeholders(variables: dict) -> list[str]:
    """Name the variables that nobody has filled in; their values are not told.

    An expression is left alone: what it refers to is looked at itself.
    """
    found = []
    for variable, value in variables.items():
        if ANSIBLES.match(variable) and not CONNECTION_SECRET.match(variable):
            continue
        for name, text in strings(value, variable):
            weak = SECRET_NAME.search(name) and WEAK_SECRET.fullmatch(text)
            if "{{" not in text and (weak or PLACEHOLDER.search(text)):
                found.append(name)
    return sorted(set(found))


def judge_placeholders(names: list[str]) -> Finding:
    """Judge what is in the inventory."""
    if names:
        fix = "write your own value into your inventory; secrets into Vault."
        return Finding("secrets", "bad", f"still a placeholder: {', '.join(names)}.", fix)
    return Finding("secrets", "ok", "no placeholder in the inventory.")


def preflight_findings(judged: list[dict]) -> Iterator[Finding]:
    """Turn what preflight found for each entry of the machine into lines.

    :param judged: for each entry `good`, what to say of a check where nothing is wrong; `notices`
        and `problems`, with the check as `what` and a `message` of four parts; and `wrong_inputs`,
        such messages alone.
    """
    found: dict[str, list[Finding]] = {}
    for entry in judged:
        for what, said in entry["good"].items():
            found.setdefault(what, [])
            if said and not any(finding.state == "ok" for finding in found[what]):
                found[what].append(Finding(what, "ok", said))
        wrong_inputs = [{"what": "inventory", "message": it} for it in entry["wrong_inputs"]]
        for state, rows in (
            ("warn", entry["notices"]),
            ("bad", wrong_inputs + entry["problems"]),
        ):
            for row in rows:
                finding = Finding(row["what"], state, *said_and_fix(row["message"]))
                if finding not in found.setdefault(row["what"], []):
                    found[row["what"]].append(finding)
    for findings in found.values():
        wrong = [finding for finding in findings if finding.state != "ok"]
        yield from wrong or findings


def said_and_fix(message: str) -> tuple[str, str]:
    """Take what is wrong, and the way out, from a four-part message."""
    wrong = re.split(r"\n\s*(?:Seen in|Computed from|Input of|Allowed|Fix)\b", message)[0]
    fix = message.partition("Fix:")[2]
    return " ".join(wrong.split()), " ".join(fix.split())


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return the findings of this machine."""
        super().run(tmp, task_vars)
        given = self._task.args
        host, address, seconds = given["host"], given["address"], given["timeout_seconds"]
        domains = [name for name in given["domains"] if name != ANY_NAME]
        first = (domains or [ANY_NAME])[0]

        questions = {("address", address): lambda: resolve(address)}
        for name in domains:
            questions["name", name] = lambda name=name: resolve(name)
        for port in given["ports"]:
            questions["port", port] = lambda port=port: connect(address, port, seconds)
        web = [port for port in (HTTPS, HTTP) if port in given["ports"]]
        if web:
            questions["site", first] = lambda: ask_site(address, first, web[0], seconds)
        answers = at_once(questions, seconds)
        # An address that cannot be resolved here is a name of ssh's own configuration.
        reached = answers.pop(("address", address))
        own = set(host["addresses"]) | set([] if isinstance(reached, Exception) else reached)
        of = {kind: {what: answer for (this, what), answer in answers.items() if this == kind}
              for kind in ("name", "port", "site")}  # fmt: skip

        hostvars = task_vars["hostvars"]
        inventory = [hostvars.raw_get(entry) for entry in given["entries"]]
        unfilled = sorted({name for variables in inventory for name in placeholders(variables)})
        findings = [
            *preflight_findings(given["preflight"]),
            *judge_names(of["name"], own),
            *judge_ports(of["port"]),
            *(judge_site(name, answer) for name, answer in of["site"].items()),
            *judge_certificates(
                host["certificates"], given["certificate_warn_days"], given["certificate_bad_days"]
            ),
            judge_units(host["failed_units"]),
            judge_updates(host["updates"], given["lists_max_hours"]),
            judge_reboot(host["reboot"]),
            judge_firewall(host["closed_chains"]),
            judge_placeholders(unfilled),
            *judge_backup(host["backup"]),
            *judge_alerts(host["alerts"]),
        ]
        return {"changed": False, "findings": [finding._asdict() for finding in findings]}
