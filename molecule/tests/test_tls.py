"""Where no name can be certified there is no HTTPS; what cannot be certified is refused.

All that needs HTTPS is in the scenario security.
"""

import json

import pytest

testinfra_hosts = ["ansible://proxy"]


@pytest.fixture
def judged(playbook):
    """Return a function: what preflight says of other values."""

    def run(**variables) -> str:
        return playbook("--tags", "preflight", "--extra-vars", json.dumps(variables)).stdout

    return run


def test_without_https_nothing_of_it_is_there(host):
    assert not host.package("certbot").is_installed
    assert not host.file("/etc/slipway/tls").exists
    assert not host.socket("tcp://443").is_listening


def test_a_name_that_no_ca_certifies_is_refused(judged):
    said = judged(tls_mode="acme", site_domains=["_"])
    assert "No CA certifies _ by port 80." in said
    assert "Fix: set site_domains to your domain" in said
    wildcard = judged(tls_mode="acme", site_domains=["shop.example.org", "*.shop.example.org"])
    assert "No CA certifies *.shop.example.org by port 80." in wildcard


def test_a_missing_file_of_ones_own_certificate_is_refused(judged):
    said = judged(tls_mode="provided", tls_certificate_file="/nowhere.pem")
    lacks = "HTTPS lacks tls_certificate_file (/nowhere.pem) and tls_private_key_file (not set)."
    assert lacks in said
    ca = judged(
        tls_mode="acme", site_domains=["shop.example.org"], tls_acme_ca_certificate="/nowhere.pem"
    )
    assert "HTTPS lacks tls_acme_ca_certificate (/nowhere.pem)." in ca


def test_a_mode_that_does_not_exist_is_refused(judged):
    assert "selfsigned" in judged(tls_mode="magic")
    assert "failed=0" in judged(tls_mode=False)  # a bare off in YAML
