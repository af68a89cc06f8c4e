"""What well-known scanners say of a server; docs/security.md explains what they leave."""

import json
import re
from pathlib import Path

testinfra_hosts = ["ansible://application"]

DOCS = Path(__file__).parents[3] / "docs/security.md"
# What the CA decides, not the server: pebble signs for five years, and offers neither CRL nor OCSP.
OF_THE_CA = {"cert_validityPeriod", "cert_revocation"}
# Of the scan itself, whose OpenSSL has no GOST ciphers and does not renegotiate, and whose look for
# tickets now and then loses its connection: the test below looks itself.
OF_THE_SCAN = {"engine_problem", "secure_renego", "sessionresumption_ticket"}


def test_testssl_finds_nothing_above_low(outside, address, name):
    report = f"/tmp/testssl-{name}.json"  # noqa: S108 (on the host outside)
    outside(
        f"rm -f {report}; testssl --quiet --warnings batch --color 0 --ip {address}"
        f" --add-ca /etc/pebble/root.pem --jsonfile {report} https://{name}/",
        seconds=280,
    )
    findings = json.loads(outside(f"cat {report}").stdout)
    assert {"cert_chain_of_trust", "cipher_order", "heartbleed"} <= {one["id"] for one in findings}
    # WARN is said by checks that could not be made; FATAL ends the scan.
    assert [
        f"{one['severity']} {one['id']}: {one['finding']}"
        for one in findings
        if one["severity"] not in ("OK", "INFO", "LOW") and one["id"] not in OF_THE_CA | OF_THE_SCAN
    ] == []


def test_no_session_ticket_is_given_out(outside, address, name):
    """Who gets hold of their key could read what was said before."""
    where = f"-connect {address}:443 -servername {name}"
    said = outside(f"openssl s_client -tls1_2 {where} </dev/null 2>/dev/null").stdout
    assert "Session-ID: " in said
    assert "TLS session ticket" not in said


def test_lynis_leaves_only_what_the_docs_explain(lynis):
    explained = set(re.findall(r"`([A-Z]+(?:-\d+)?)`", DOCS.read_text()))
    said = {line.partition("|")[0] for line in lynis["suggestion"] + lynis.get("warning", [])}
    assert len(lynis["suggestion"]) > 5
    assert said - explained == set()


def test_lynis_gives_a_good_index(lynis):
    """A container has the kernel of another: the scenario `security-vm` asks for more."""
    assert int(lynis["hardening_index"][0]) >= 70
