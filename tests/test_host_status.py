"""What the status reads from nginx's log, and how a person reads the status."""

import time

import pytest

from plugins import load

load("base/module_utils/host_look.py", "ansible.module_utils.host_look")
load("base/module_utils/health_gate.py", "ansible.module_utils.health_gate")
host_status = load("status/library/host_status.py")
tell_status = load("status/action_plugins/tell_status.py")
NOW = 1_795_390_000.0


def line(
    age: float, status: int = 200, seconds: str = "0.010", app: str = "shop", agent: str = "x"
):
    """Return a line of nginx's log."""
    return (
        f'203.0.113.7 - - [22/Nov/2026:23:30:00 +0000] "GET /a?b=" {status} 12 "-" "{agent}" '
        f"shop.example.org 0123456789abcdef 45.000 0.009, 0.001 {app} {NOW - age:.3f}\n"
    )


def test_only_the_last_minutes_count_and_each_application_for_itself(tmp_path):
    log = tmp_path / "access.log"
    log.write_text(line(400) + line(301) + line(299, 502) + line(5, app="blog") + line(1))
    found = host_status.requests(str(log), 300, NOW)
    assert found == {"shop": [(200, 0.01), (502, 0.01)], "blog": [(200, 0.01)]}


def test_a_log_that_was_rotated_meanwhile_is_read_on(tmp_path):
    (tmp_path / "access.log").write_text(line(10))
    (tmp_path / "access.log.1").write_text(line(500) + line(200) + line(20))
    found = host_status.requests(str(tmp_path / "access.log"), 300, NOW)
    assert len(found["shop"]) == 3


def test_there_may_be_no_log_or_lines_of_another_format(tmp_path):
    assert host_status.requests(str(tmp_path / "none.log"), 300, NOW) == {}
    log = tmp_path / "access.log"
    log.write_text('127.0.0.1 - - "GET / HTTP/1.1" 200 5 "-" "x" h id 0.1 0.1\n\n' + line(3))
    assert len(host_status.requests(str(log), 300, NOW)["shop"]) == 1


def test_a_client_cannot_write_a_line_of_its_own(tmp_path):
    log = tmp_path / "access.log"
    forged = r"\x22 500 1 \x22-\x22 \x22-\x22 h id 9.999 9.9 shop 1795389999.000"
    log.write_text(line(1, agent=forged))
    assert host_status.requests(str(log), 300, NOW) == {"shop": [(200, 0.01)]}


def test_lines_come_from_the_end_whatever_the_size_of_a_block(tmp_path, monkeypatch):
    log = tmp_path / "log"
    lines = [f"line {number} {'x' * (number % 7)}".encode() for number in range(200)]
    log.write_bytes(b"\n".join(lines) + b"\n")
    for size in (1, 2, 7, 64, 10_000):
        monkeypatch.setattr(host_status, "BLOCK", size)
        assert list(host_status.newest_lines(log)) == lines[::-1]


def test_percentiles_are_those_of_the_requests():
    rows = [(200, number / 1000) for number in range(1, 101)] + [(500, 9.0)]
    seen = host_status.summary(rows, 300)
    assert (seen["count"], seen["p50_ms"], seen["p99_ms"], seen["answers_5xx"]) == (101, 51, 100, 1)
    assert host_status.summary([], 300)["p99_ms"] is None


def test_two_hundred_thousand_lines_take_no_time_to_speak_of(tmp_path):
    log = tmp_path / "access.log"
    log.write_text(line(1) * 200_000)
    began = time.process_time()
    assert len(host_status.requests(str(log), 300, NOW)["shop"]) == 200_000
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (2e6, "23 d")],
)
def test_a_duration_is_told_in_its_largest_unit(seconds, text):
    assert tell_status.duration(seconds) == text


def application(**changes) -> dict:
    """Return an application as the module describes it."""
    return {
        "app": "shop", "release": "R", "serves": True, "healthy": True,
        "workers": {"alive": 5, "promised": 5}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"workers": {"alive": 6, "promised": 5}}, ""),
        ({"workers": {"alive": 4, "promised": 5}}, "has 4 of 5 workers"),
        ({"serves": False, "healthy": False}, "is down"),
        ({"healthy": False}, "does not pass its health check"),
        ({"release": ""}, "has no release yet"),
    ],
)
def test_what_does_not_serve_as_promised_is_told(changes, why):
    assert tell_status.wrong(application(**changes)) == why


@pytest.mark.parametrize(
    ("alerts", "line"),
    [
        (None, "none are set up: site_monitoring is false"),
        ({"error": "Prometheus does not answer: x", "firing": []}, "UNKNOWN, Prometheus does not"),
        ({"error": "", "firing": []}, "none is firing"),
        (
            {"error": "", "firing": [{"alert": "AppDown", "subject": "shop"},
                                     {"alert": "RebootPending", "subject": ""}]},
            "2 FIRING: AppDown (shop), RebootPending",
        ),
    ],
)  # fmt: skip
def test_a_person_reads_which_alerts_are_firing(alerts, line):
    assert tell_status.alerts_line(alerts).startswith(line)
