"""The host has what every role counts on: packages, time, trust, a bounded journal, swap."""

import os
import re
from urllib.parse import urlsplit

testinfra_hosts = ["ansible://all"]

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]


def test_only_what_is_needed_was_installed(host):
    assert host.package("ca-certificates").is_installed
    for recommended in ("build-essential", "exim4-base", "sysstat", "nginx-doc"):
        assert not host.package(recommended).is_installed


def test_our_facts_say_what_those_of_ansible_say(host):
    ours = host.ansible("machine_facts")["ansible_facts"]
    ansibles = host.ansible("setup", "gather_subset=distribution,hardware,virtual")["ansible_facts"]
    same = {name: ansibles[f"ansible_{name}"] for name in ours}
    guest = "virtualization_tech_guest"  # a set once, whose order means nothing
    assert ours | {guest: sorted(ours[guest])} == same | {guest: sorted(same[guest])}
    assert len(ours) == 6


def test_all_that_was_fetched_came_through_the_proxy_where_there_is_one(host, knob):
    """What the proxy itself has logged names whom it was asked for."""
    proxy = knob("site_http_proxy", "")
    configured = host.run("grep --no-messages --recursive ^Acquire::http::Proxy /etc/apt").stdout
    assert (proxy in configured) if proxy else (configured == "")
    if not proxy:
        return
    gateway = host.get_host("ansible://gateway", ansible_inventory=INVENTORY)
    asked = gateway.check_output("journalctl --identifier=tinyproxy --output=cat")
    servers = host.check_output("apt-get update --print-uris")
    names = {urlsplit(uri).hostname for uri in re.findall(r"'(https?:\S+)'", servers)}
    assert names
    for name in {*names, urlsplit(knob("flask_app_package_index", "")).hostname}:
        assert name in asked


def test_the_clock_is_kept(host, knob):
    package = knob("base_time_sync_package", "systemd-timesyncd")
    assert host.service(package).is_enabled


def test_python_trusts_the_network_it_is_in(host):
    code = "import urllib.request as u; print(u.urlopen('https://pypi.org/simple/uv/').status)"
    assert host.check_output("python3 -c %s", code) == "200"


def test_the_journal_is_bounded_and_kept(host, knob):
    promised = knob("base_journal_max_size_mib", 500)
    said = host.check_output("journalctl --unit systemd-journald --output cat --no-pager")
    limits = [line for line in said.splitlines() if line.startswith("System Journal")]
    assert re.search(rf"max {promised}(\.0)?M,", limits[-1])
    assert host.file("/var/log/journal").is_directory


def test_swap_is_there_where_memory_is_small(host, knob):
    container = host.run("systemd-detect-virt --container").rc == 0
    mib = int(host.check_output("awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))
    promised = knob("base_swap_mib", 0 if container or mib >= 2000 else 1024)
    listed = host.check_output("swapon --noheadings --show=NAME,SIZE --bytes").split()
    ours = dict(zip(listed[::2], map(int, listed[1::2]), strict=True)).get("/swapfile", 0)
    assert abs(ours - promised * 2**20) <= 4096
    assert ("/swapfile" in host.file("/etc/fstab").content_string) == (promised > 0)
