"""What the server needs from elsewhere is gone: it serves on, and the run says what is missing."""

import pytest
from faults import Run
from runs import REFUSES, last_task

testinfra_hosts = ["ansible://application"]

# As a cable that is pulled, but for the connections that are there.
CUT = (
    "nft 'add table inet cut; add chain inet cut out { type filter hook output priority 0; }; "
    "add rule inet cut out oifname != lo ct state new reject'"
)
PACKAGE = "cowsay"
WANTED = ("--extra-vars", f'{{"site_app_packages": ["{PACKAGE}"]}}')


@pytest.fixture
def mended(server):
    """Connect the server with the world again, whatever became of the test."""
    server.must("cp /etc/resolv.conf /run/resolv.conf")
    yield
    server.run("nft delete table inet cut")
    server.must("cat /run/resolv.conf > /etc/resolv.conf")
    server.must(f"apt-get purge --yes --autoremove {PACKAGE} && apt-get clean")


def test_without_dns_the_site_is_served_and_a_run_says_so(host, server, fault, playbook, mended):
    release = server.release()
    with fault("DNS is gone, and `site.yml` run for a package that is not there yet") as seen:
        seen.begins()
        server.must("echo nameserver 192.0.2.1 > /etc/resolv.conf")
        done = playbook(*WANTED)
        server.must("cat /run/resolv.conf > /etc/resolv.conf")
        again = playbook(*WANTED)
        seen.ends()
    assert done.returncode != 0
    assert last_task(done.stdout).startswith(REFUSES)
    assert "cannot reach" in done.stdout
    assert again.returncode == 0, again.stdout
    assert server.run(f"dpkg --status {PACKAGE}").returncode == 0
    assert seen.failed == []
    assert server.release() == release


def test_a_mirror_that_goes_away_in_a_run_needs_only_another_run(
    host, server, fault, playbook, mended
):
    with fault("the package mirror goes away in the middle of `site.yml`") as seen:
        seen.begins()
        run = Run("site.yml", *WANTED)
        run.wait_for("TASK [base : ")
        server.must(CUT)
        output, code = run.result()
        server.must("nft delete table inet cut")
        again = playbook(*WANTED)
        seen.ends()
    assert code != 0, output
    assert f"{PACKAGE} ended with" in output
    assert "Fix:" in output
    assert again.returncode == 0, again.stdout
    assert server.run(f"dpkg --status {PACKAGE}").returncode == 0
    assert seen.failed == []
