"""The kernel drops what no rule lets in, over IPv4 and IPv6, also after a reboot."""

import json
import socket

import pytest

testinfra_hosts = ["ansible://all"]


@pytest.fixture
def table(host) -> list[dict]:
    """Return our table as the kernel has it."""
    return json.loads(host.check_output("nft --json list table inet slipway"))["nftables"]


def elements(table: list[dict], name: str) -> list[int]:
    """Return the elements of a set."""
    sets = [entry["set"] for entry in table if "set" in entry]
    return next((found.get("elem", []) for found in sets if found["name"] == name), [])


def test_what_no_rule_lets_in_is_dropped_over_both_protocols(table):
    chains = {entry["chain"]["name"]: entry["chain"] for entry in table if "chain" in entry}
    assert chains["input"]["family"] == "inet"
    assert chains["input"]["policy"] == "drop"
    assert "forward" not in chains


def test_the_open_ports_are_those_of_the_inventory(host, table, variables, knob):
    promised = {80, 443} if "proxy" in variables["group_names"] else set()
    bind = knob("gunicorn_bind", "")
    promised |= {int(bind.rpartition(":")[2])} if bind else set()
    promised |= set(knob("firewall_allowed_tcp_ports", []))
    assert set(elements(table, "tcp_ports")) == promised
    assert elements(table, "ssh_ports") == [22]


def test_further_rules_are_those_of_the_inventory(host, knob):
    rules = host.check_output("nft list chain inet slipway input")
    for rule in knob("firewall_rules", []):
        for address in rule["from"]:
            assert f"saddr {address} {rule['protocol']} dport {rule['port']} accept" in rules
    assert rules.count("saddr") == 1 + sum(len(r["from"]) for r in knob("firewall_rules", []))


def test_new_ssh_connections_of_one_address_are_limited(host, knob):
    rules = host.check_output("nft list chain inet slipway ssh")
    minute = knob("firewall_ssh_connections_per_minute", 30)
    burst = knob("firewall_ssh_connections_burst", 30)
    limit = f"limit rate over {minute}/minute burst {burst} packets"
    assert rules.count(limit) == 2
    assert "ffff:ffff:ffff:ffff::" in rules


def test_a_port_that_nobody_opened_does_not_answer(host, variables):
    address = variables["ansible_host"].replace("127.0.", "10.127.")
    host.check_output("systemd-run --unit knocker python3 -m http.server 5056")
    try:
        with pytest.raises(OSError, match="timed out"):
            socket.create_connection((address, 5056), timeout=3)
    finally:
        host.check_output("systemctl stop knocker")


def test_the_rules_come_back_after_a_reboot(host):
    assert host.service("nftables").is_enabled
    assert host.run("nft --check --file /etc/nftables.conf").rc == 0
