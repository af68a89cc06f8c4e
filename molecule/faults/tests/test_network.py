"""What the server needs from elsewhere is gone: it serves on, and the run says what is missing."""

import os
import subprocess
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]

PROJECT = Path(__file__).parents[3]
CUT = (
    "nft add table inet cut && nft 'add chain inet cut out { type filter hook output priority 0; }'"
    " && nft add rule inet cut out oifname != lo ct state new reject"
)
PACKAGE = "cowsay"


@pytest.fixture
def mended(server):
    """Connect the server with the world again, whatever became of the test."""
    yield
    server.must("nft delete table inet cut 2>/dev/null; true")
    server.must("[ ! -e /run/resolv.conf ] || cat /run/resolv.conf > /etc/resolv.conf")


def test_without_dns_the_site_is_served_and_a_run_says_so(host, server, fault, playbook, mended):
    release = server.release()
    with fault("DNS is gone, and `site.yml` run for a package that is not there yet") as seen:
        seen.begins()
        server.must("cp /etc/resolv.conf /run/ && echo nameserver 192.0.2.1 > /etc/resolv.conf")
        done = playbook("--extra-vars", f'{{"site_app_packages": ["{PACKAGE}"]}}')
        server.must("cat /run/resolv.conf > /etc/resolv.conf")
        seen.ends()
    assert done.returncode != 0
    assert "Fix:" in done.stdout
    assert "Traceback" not in done.stdout
    assert seen.failed == []
    assert server.release() == release


def test_a_mirror_that_goes_away_in_a_run_needs_only_another_run(
    host, server, fault, playbook, mended
):
    wanted = ["--extra-vars", f'{{"site_app_packages": ["{PACKAGE}"]}}']
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    command = ["ansible-playbook", "--inventory", inventory, "site.yml", *wanted]
    with fault("the package mirror goes away in the middle of `site.yml`") as seen:
        seen.begins()
        with subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        ) as run:
            said = []
            for line in run.stdout:
                said.append(line)
                if line.startswith("TASK [base : "):
                    server.run(CUT)  # the first time; then the table is there
        output = "".join(said)
        server.must("nft delete table inet cut")
        assert run.returncode != 0, output
        assert PACKAGE in output
        assert "Traceback" not in output
        assert server.run(f"dpkg --status {PACKAGE}").returncode != 0
        again = playbook(*wanted)
        seen.ends()
    assert again.returncode == 0, again.stdout
    assert server.run(f"dpkg --status {PACKAGE}").returncode == 0
    assert seen.failed == []
