"""What scanners say of a machine with its own kernel; docs/security.md explains what they leave."""

import re
from pathlib import Path

testinfra_hosts = ["ansible://application"]

DOCS = Path(__file__).parents[3] / "docs/security.md"


def test_lynis_leaves_only_what_the_docs_explain(lynis):
    explained = set(re.findall(r"`([A-Z]+(?:-\d+)?)`", DOCS.read_text()))
    said = {line.partition("|")[0] for line in lynis["suggestion"] + lynis.get("warning", [])}
    assert len(lynis["suggestion"]) > 5
    assert said - explained == set()


def test_lynis_gives_a_very_good_index(lynis):
    assert int(lynis["hardening_index"][0]) >= 80


def test_the_application_is_hardly_exposed(host, app, release):
    analyze = f"systemd-analyze security --no-pager {app}@{release}.service"
    assert float(host.check_output(f"{analyze} | tail --lines=1").split()[6]) <= 1.0
