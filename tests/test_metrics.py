"""What the timer counts of nginx's log, and how it tells it."""

import importlib.machinery
import importlib.util
import json
import os
import sys

import pytest

from plugins import ROLES, load

sys.modules["host_look"] = load("base/module_utils/host_look.py")
path = str(ROLES / "monitoring/files/slipway-metrics")
loader = importlib.machinery.SourceFileLoader("slipway_metrics", path)
metrics = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
sys.dont_write_bytecode, written = True, sys.dont_write_bytecode
loader.exec_module(metrics)
sys.dont_write_bytecode = written


def line(status: int = 200, seconds: str = "0.010", app: str = "shop") -> bytes:
    """Return a line of nginx's log."""
    return (
        f'203.0.113.7 - - [22/Nov/2026:23:30:00 +0000] "GET /a?b=" {status} 12 "-" "x" '
        f"shop.example.org 0123456789abcdef {seconds} 0.009 {app} 1795390000.123\n"
    ).encode()


@pytest.fixture
def log(tmp_path):
    """Return a log in which there is something already."""
    path = tmp_path / "access.log"
    path.write_bytes(line() * 3)
    return path


def append(path, text: bytes) -> None:
    """Write to the end of a file."""
    with path.open("ab") as file:
        file.write(text)


def test_counting_begins_at_the_end_of_the_log_and_reads_each_line_once(log):
    state = {}
    assert metrics.new_lines(log, state) == [b""]
    append(log, line(500) + line(502)[:40])
    assert metrics.new_lines(log, state) == [line(500).rstrip()]
    append(log, line(502)[40:])
    assert metrics.new_lines(log, state) == [line(502).rstrip()]


def test_a_rotation_loses_no_line(log):
    state = {}
    metrics.new_lines(log, state)
    append(log, line(500))
    log.rename(log.with_name("access.log.1"))
    log.write_bytes(line(503))
    assert [each for each in metrics.new_lines(log, state) if each] == [
        line(500).rstrip(),
        line(503).rstrip(),
    ]
    os.truncate(log, 0)
    append(log, line(201)[:60] + b"\n")
    assert metrics.new_lines(log, state) == [line(201)[:60]]


def test_a_flood_is_cut_off(log, monkeypatch):
    state = {}
    metrics.new_lines(log, state)
    append(log, line() * 100)
    monkeypatch.setattr(metrics, "MOST_BYTES", 10 * len(line()))
    assert len(metrics.new_lines(log, state)) == 10
    assert metrics.new_lines(log, state) == [b""]


def test_requests_are_counted_by_application_and_class():
    counters = {}
    lines = [line(), line(204, "0.3"), line(502, "70.0"), line(404), line(app="blog"), b"noise"]
    metrics.count(lines, counters, ["shop"])
    shop = counters.pop("shop")
    assert counters == {}
    assert shop["classes"] == {"2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1}
    assert shop["buckets"] == [0, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert shop["sum"] == pytest.approx(70.32)


def test_what_is_told_is_in_the_format_of_prometheus():
    counters, told = {}, metrics.Metrics()
    metrics.count([line(500, "2.0")], counters, ["shop"])
    metrics.tell_requests(told, counters, ["shop"])
    told.add("slipway_reboot_required", "gauge", 1)
    text = told.text()
    assert "# TYPE slipway_http_requests_total counter\n" in text
    assert 'slipway_http_requests_total{app="shop",code="5xx"} 1\n' in text
    assert 'slipway_http_request_duration_seconds_bucket{app="shop",le="+Inf"} 1\n' in text
    assert 'slipway_http_request_duration_seconds_bucket{app="shop",le="1"} 0\n' in text
    assert 'slipway_http_request_duration_seconds_sum{app="shop"} 2.0\n' in text
    assert text.endswith("# TYPE slipway_reboot_required gauge\nslipway_reboot_required 1\n")
    assert text.count("# TYPE slipway_http_request_duration_seconds ") == 1


def test_a_broken_certificate_has_ended_and_a_red_backup_is_told(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/fullchain.pem").write_text("no certificate")
    status = tmp_path / "status.json"
    ended = {"stopped": "2026-11-25T20:00:00Z", "seconds": 9.5}
    known = {
        "checked": "2026-11-25T20:00:00Z",
        "lines": {"backup": {"state": "bad"}, "drill": {"state": "ok"}},
        "backup": {"result": "failed", **ended},
        "drill": {"result": "ok", "size_bytes": 4096, **ended},
    }
    status.write_text(json.dumps(known))
    monkeypatch.setattr(metrics.host_look, "BACKUP", status)
    told = metrics.Metrics()
    metrics.tell_certificates(told, tmp_path)
    metrics.tell_backup(told)
    text = told.text()
    assert 'slipway_certificate_end_seconds{name="shop"} 0\n' in text
    assert "slipway_backup_checked_seconds 1795636800\n" in text
    assert 'slipway_backup_state{line="backup"} 2\n' in text
    assert 'slipway_backup_state{line="drill"} 0\n' in text
    assert 'slipway_backup_run_ok{run="backup"} 0\n' in text
    assert 'slipway_backup_run_ok{run="drill"} 1\n' in text
    assert 'slipway_backup_run_ended_seconds{run="backup"} 1795636800\n' in text
    assert 'slipway_backup_run_duration_seconds{run="drill"} 9.5\n' in text
    assert 'slipway_backup_run_size_bytes{run="drill"} 4096\n' in text


def test_memory_is_given_back_once_for_each_start_and_not_at_once(monkeypatch):
    rows = {
        "a.service": {"MainPID": "7", "ExecMainStartTimestampMonotonic": "100000000"},
        "b.service": {"MainPID": "0", "ExecMainStartTimestampMonotonic": "0"},
    }
    taken, now = [], [159.0]
    monkeypatch.setattr(metrics.host_look, "units", lambda *_: rows)
    monkeypatch.setattr(metrics, "page_out", taken.append)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    given = metrics.give_back(["a.service", "b.service"], {})
    assert (given, taken) == ({}, [])
    now[0] = 161.0
    for _ in range(2):
        given = metrics.give_back(["a.service", "b.service"], given)
    assert taken == [7]
    rows["a.service"] |= {"MainPID": "9", "ExecMainStartTimestampMonotonic": "200000000"}
    now[0] = 300.0
    assert metrics.give_back(["a.service", "b.service"], given) == {"a.service": "9 200000000"}
    assert taken == [7, 9]
