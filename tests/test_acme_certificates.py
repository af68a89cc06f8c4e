"""When the CA is asked, for which names, and what is told instead."""

import time

import pytest

from plugins import load

DAY = 86400

store = load("tls/module_utils/tls_store.py", "ansible.module_utils.tls_store")
acme = load("tls/library/acme_certificates.py")


def wish(wanted: str, present: str | None = None, days_left: float = 80, same_ca: bool = True):
    """Return a wish for some names, with a certificate of 90 days that has others."""
    made = object.__new__(acme.Wish)
    made.site, made.names, made.same_ca = "shop", wanted.split(), same_ca
    ends = time.time() + days_left * DAY
    names = frozenset((present or "").split())
    made.present = None if present is None else store.Certificate(names, ends - 90 * DAY, ends)
    return made


def test_a_certificate_with_the_right_names_is_left_alone():
    assert wish("a b", present="b a").is_fulfilled
    assert wish("a b", present="a b", days_left=29).is_fulfilled  # certbot's timer is at it


@pytest.mark.parametrize(
    "lacking",
    [
        wish("a"),
        wish("a b", present="a"),
        wish("a", present="a b"),
        wish("a", present="a", days_left=20),
        wish("a", present="a", days_left=-1),
        wish("a", present="a", same_ca=False),
    ],
    ids=["none", "one more", "one less", "nearly over", "over", "another CA"],
)
def test_another_certificate_is_asked_for_with_all_names(lacking):
    assert not lacking.is_fulfilled
    assert lacking.askable(lacking.names) == lacking.names


def test_names_that_are_ready_do_not_wait_for_the_others():
    assert wish("a b").askable(["a"]) == ["a"]
    assert wish("a b", present="a").askable(["a"]) == []


def test_no_name_is_lost_while_dns_is_ill():
    assert wish("a b c", present="a b").askable(["a", "c"]) == []
    assert wish("a b c", present="a b").askable(["a", "b"]) == []
    assert wish("a").askable([]) == []


def test_what_serves_meanwhile_is_told():
    assert "self-signed" in wish("a").serves_with()
    assert "(a, b; good until " in wish("a b c", present="a b").serves_with()
    assert "(a; ended on " in wish("a", present="a", days_left=-3).serves_with()


def test_a_wildcard_covers_one_label():
    certificate = store.Certificate(frozenset(["*.example.org"]), 0, 0)
    assert certificate.covers("shop.example.org")
    assert not certificate.covers("a.shop.example.org")
    assert not certificate.covers("example.org")
