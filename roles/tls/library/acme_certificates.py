#!/usr/bin/python
"""Ask a CA for the certificates that sites lack; first see whether it can find this host.

certbot does the asking. What cannot be had now is told and left to a later run: the site serves
meanwhile, with a self-signed certificate or with its old one.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tls_store import LIVE, SITES, Store, read_pair

RENEWAL = Path("/etc/letsencrypt/renewal")
CHALLENGE = ".well-known/acme-challenge"
CONNECT_SECONDS = 5
MOST_REDIRECTS = 3
TRIES = 4  # nginx may have been reloaded a moment ago
REDIRECTS = {301, 302, 303, 307, 308}
# Of certbot's talk, what helps nobody.
NOISE = re.compile(r"^(Saving debug log|Ask for help|See the logfile|- - -|Hint:)")


class NotNow(Exception):
    """The CA cannot be asked, or did not sign; says what was seen and how to mend it."""


class Wish:
    """A site, the names that it wants certified, and the CA's certificate that it has."""

    def __init__(self, site: dict, module: AnsibleModule):
        self.site = site["name"]
        self.names = list(dict.fromkeys(name.lower() for name in site["names"]))
        self.present = read_pair(LIVE / self.site, module.run_command)
        renewal = RENEWAL / f"{self.site}.conf"
        text = renewal.read_text() if renewal.exists() else ""
        asked = re.search(r"^server = (\S+)$", text, re.MULTILINE)
        self.same_ca = bool(asked) and asked[1] == module.params["directory_url"]

    @property
    def certified(self) -> set[str]:
        """Return the names that the present certificate has."""
        return set(self.present.names) if self.present else set()

    @property
    def is_stale(self) -> bool:
        """Tell whether another is needed though the names are right.

        certbot's timer renews when a third is left. With a quarter left something is wrong with it.
        """
        if not self.present or not self.same_ca:
            return True
        left, whole = self.present.ends - time.time(), self.present.ends - self.present.begins
        return left < whole / 4

    @property
    def is_fulfilled(self) -> bool:
        """Tell whether there is nothing to ask for."""
        return self.certified == set(self.names) and not self.is_stale

    def askable(self, ready: list[str]) -> list[str]:
        """Return the names to ask for: those that are ready, if nothing is lost by that."""
        kept = self.certified & set(self.names)
        gains = set(ready) - self.certified or self.certified - set(self.names) or self.is_stale
        return ready if ready and gains and kept <= set(ready) else []

    def serves_with(self) -> str:
        """Say with what the site serves meanwhile."""
        if self.present is None:
            return f"{self.site} serves with a self-signed certificate, which browsers warn of."
        names, day = ", ".join(sorted(self.present.names)), self.present.last_day
        lasts = f"ended on {day}" if self.present.ends < time.time() else f"good until {day}"
        return f"{self.site} serves on with the certificate that it has ({names}; {lasts})."


def fetch(address: str, name: str, path: str) -> tuple[int, bytes]:
    """Ask an address, as the CA would, for a path of a name; return status and content."""
    connection = http.client.HTTPConnection(address, 80, timeout=CONNECT_SECONDS)
    status, content = 0, b""
    for _ in range(MOST_REDIRECTS):
        connection.request("GET", path, headers={"Host": name, "Connection": "close"})
        with connection.getresponse() as answer:
            status, content = answer.status, answer.read(500)
            location = answer.getheader("Location", "")
        connection.close()
        if status not in REDIRECTS:
            break
        target = urlsplit(urljoin(f"http://{name}{path}", location))
        name, path = target.netloc, f"{target.path}?{target.query}".rstrip("?")
        if target.scheme == "https":  # the CA does not look at that certificate either
            connection = http.client.HTTPSConnection(
                target.hostname or "",
                target.port,
                timeout=CONNECT_SECONDS,
                context=ssl._create_unverified_context(),  # noqa: S323
            )
        else:
            connection = http.client.HTTPConnection(
                target.hostname or "", target.port, timeout=CONNECT_SECONDS
            )
    return status, content


def wrong_at(address: str, name: str, token: str) -> str:
    """Say what is wrong with an address that a name leads to, or ""."""
    for attempt in range(TRIES):
        try:
            status, content = fetch(address, name, f"/{CHALLENGE}/{token}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"{name} leads to {address}, where port 80 does not answer: {error}."
        if content.decode(errors="replace").strip() == token:
            return ""
        if attempt + 1 < TRIES:
            time.sleep(1)
    return f"{name} leads to {address}, where another server answers (status {status})."


def can_be_routed(address: str) -> bool:
    """Tell whether this host has a way to an address; one without IPv6 cannot judge an AAAA."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 80))  # sends nothing
    except OSError:
        return False
    return True


def addresses_of(name: str) -> tuple[list[str], str]:
    """Return the addresses of a name as this host sees them, or why there are none.

    One that stands for itself in /etc/hosts (127.0.1.1) is left for the CA to judge.
    """
    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [], f"{name} has no address in DNS ({getattr(error, 'strerror', error)})."
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    return [address for address in addresses if can_be_routed(address)] or addresses, ""


def self_test(names: list[str], challenge_path: str, fetch_token: bool) -> tuple[list[str], list]:
    """Return the names that lead to this host, and what is wrong with the others."""
    ready, problems = [], []
    token = f"slipway-{secrets.token_urlsafe(24)}"
    shown = Path(challenge_path, CHALLENGE, token)
    if fetch_token:
        shown.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shown.write_text(token)
    try:
        for name in names:
            addresses, problem = addresses_of(name)
            wrong = [problem] if problem else []
            if fetch_token:
                wrong += filter(None, [wrong_at(address, name, token) for address in addresses])
            problems += wrong
            ready += [] if wrong else [name]
    finally:
        if fetch_token:
            shown.unlink(missing_ok=True)
    return ready, problems


def see_directory(module: AnsibleModule) -> None:
    """Refuse to ask a CA that is down, or a URL that is none."""
    url, proxy = module.params["directory_url"], module.params["http_proxy"]
    context = ssl.create_default_context(cafile=module.params["ca_certificate"] or None)
    proxies = {"http": proxy, "https": proxy} if proxy else {}
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=2 * CONNECT_SECONDS) as answer:
            json.load(answer)["newOrder"]
        return
    except (OSError, http.client.HTTPException) as error:
        seen = f"The CA does not answer: {getattr(error, 'reason', error)}."
    except (KeyError, TypeError, ValueError):
        seen = "That is no directory of an ACME server."
    raise NotNow(
        f"{seen}\nSeen in: {url} (tls_acme_directory_url), from this host.\n"
        "Allowed: the directory of an ACME server that the host trusts (tls_acme_ca_certificate).\n"
        "Fix: run playbooks/issue-certificates.yml once it is back."
    )


def ask(wish: Wish, names: list[str], module: AnsibleModule) -> None:
    """Let certbot ask for one certificate with these names."""
    options = module.params
    command = ["timeout", str(options["timeout_seconds"]), "certbot", "certonly"]
    command += ["--non-interactive", "--agree-tos", "--server", options["directory_url"]]
    if options["email"]:
        command += ["--email", options["email"], "--no-eff-email"]
    else:
        command += ["--register-unsafely-without-email"]
    command += ["--webroot", "--webroot-path", options["challenge_path"]]
    command += ["--cert-name", wish.site, "--domains", ",".join(names), "--renew-with-new-domains"]
    command += ["--force-renewal"] if wish.present and wish.is_stale else []
    environment = {}
    if options["ca_certificate"]:
        environment["REQUESTS_CA_BUNDLE"] = options["ca_certificate"]
    if options["http_proxy"]:
        environment["https_proxy"] = options["http_proxy"]
    code, output, error = module.run_command(command, environ_update=environment)
    if code == 0:
        return
    lines = [line.rstrip() for line in (output + error).splitlines()]
    said = "\n".join([line for line in lines if line.strip() and not NOISE.match(line)][-14:])
    raise NotNow(
        f"certbot ended with {code} when asked for {', '.join(names)}:\n{said}\n"
        f"Seen in: /var/log/letsencrypt/letsencrypt.log; the CA is {options['directory_url']}.\n"
        "Allowed: what the CA accepts; it limits failures to a few in an hour.\n"
        "Fix: mend what it names, then run playbooks/issue-certificates.yml."
    )


def not_ready(problems: list[str], module: AnsibleModule) -> str:
    """Say what DNS or port 80 does not allow yet."""
    _, own, _ = module.run_command(["hostname", "--all-ip-addresses"])
    wrong = "\n".join(problems)
    return (
        f"{wrong}\nSeen in: DNS and port 80, from this host; its own addresses are "
        f"{', '.join(own.split())}.\n"
        "Allowed: every name of site_domains leads to this host, by A and by AAAA.\n"
        "Fix: correct the record, wait until it is known, then run "
        "playbooks/issue-certificates.yml.\n"
        "If only the host itself cannot reach its public address: tls_acme_self_test: false."
    )


def fulfil(wish: Wish, module: AnsibleModule, store: Store) -> tuple[list[str], str]:
    """Get a site its certificate; return the names that were asked for, and what is missing."""
    options, ready, problems = module.params, wish.names, []
    if options["self_test"]:
        challenge_path = options["challenge_path"]
        ready, problems = self_test(wish.names, challenge_path, not module.check_mode)
    missing = not_ready(problems, module) if problems else ""
    names = wish.askable(ready)
    if names and not module.check_mode:
        try:
            see_directory(module)
            ask(wish, names, module)
        except NotNow as error:
            said = [wish.serves_with(), missing, str(error)]
            return [], "\n".join(filter(None, said))
        store.begin()
        store.switch(wish.site, LIVE / wish.site)
        wish.present = read_pair(LIVE / wish.site, module.run_command)
    return names, f"{wish.serves_with()}\n{missing}" if missing else ""


def main() -> None:
    """Ask for what is missing, and let nginx serve what came."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "sites": SITES,
            "challenge_path": {"type": "path", "required": True},
            "directory_url": {"type": "str", "required": True},
            "ca_certificate": {"type": "path", "default": ""},
            "email": {"type": "str", "default": ""},
            "self_test": {"type": "bool", "default": True},
            "timeout_seconds": {"type": "int", "default": 180},
            "http_proxy": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    store = Store(module.params["path"], module.run_command)
    issued, problems = {}, []
    for site in module.params["sites"]:
        wish = Wish(site, module)
        if wish.is_fulfilled:
            continue
        names, missing = fulfil(wish, module, store)
        issued |= {wish.site: names} if names else {}
        problems += [missing] if missing else []
    pending = store.is_pending()
    result = {"changed": bool(issued) or pending, "issued": issued, "problems": problems}
    if module._diff and issued:
        asked = [f"+ certificate {site}: {', '.join(names)}\n" for site, names in issued.items()]
        result["diff"] = {"prepared": "".join(asked)}
    if pending and not module.check_mode and (refusal := store.apply()):
        module.fail_json(msg=refusal, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
