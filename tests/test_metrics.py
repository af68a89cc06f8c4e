"""What the timer counts of nginx's log, and how it tells it."""

import importlib.machinery
import importlib.util
import json
import os
import sys

import pytest
import yaml

from plugins import ROLES, load

sys.modules["host_look"] = load("base/module_utils/host_look.py")
path = str(ROLES / "monitoring/files/slipway-metrics")
loader = importlib.machinery.SourceFileLoader("slipway_metrics", path)
metrics = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
sys.dont_write_bytecode, written = True, sys.dont_write_bytecode
loader.exec_module(metrics)
sys.dont_write_bytecode = written


BOUNDS = metrics.bounds(2)
# From the first byte of a slow client to its last.
CLIENT_SECONDS = "45.000"


def line(status: int = 200, seconds: str = "0.010", app: str = "shop") -> bytes:
    """Return a line of nginx's log: how long the application took, and the client much longer."""
    return (
        f'203.0.113.7 - - [22/Nov/2026:23:30:00 +0000] "GET /a?b=" {status} 12 "-" "x" '
        f"shop.example.org 0123456789abcdef {CLIENT_SECONDS} {seconds} {app} 1795390000.123\n"
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
    lines = [line(), line(204, "0.1, 0.2"), line(502, "70.0"), line(app="blog"), b"noise"]
    lines.append(line(499, "-"))  # the client went away before the application was asked
    metrics.count(lines, counters, ["shop"], BOUNDS)
    shop = counters.pop("shop")
    assert counters == {}
    assert shop["classes"] == {"2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1}
    assert shop["buckets"] == [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3]
    assert shop["sum"] == pytest.approx(70.31)


def test_answers_within_the_default_bound_are_known_to_be():
    """Else p99 would be somewhere between the next bounds, and over it."""
    defaults = yaml.safe_load((ROLES / "monitoring/defaults/main.yml").read_text())
    bound = defaults["monitoring_p99_milliseconds"] / 1000
    counters, bounds = {}, metrics.bounds(bound)
    metrics.count(
        [line(seconds="1.05")] * 100 + [line(seconds="2.001")], counters, ["shop"], bounds
    )
    assert counters["shop"]["buckets"][bounds.index(bound)] == 100


def test_what_is_told_is_in_the_format_of_prometheus():
    counters, told = {}, metrics.Metrics()
    metrics.count([line(500, "2.0")], counters, ["shop"], BOUNDS)
    metrics.tell_requests(told, counters, ["shop"], BOUNDS)
    told.add("slipway_reboot_required", "gauge", 1)
    text = told.text()
    assert "# TYPE slipway_http_requests_total counter\n" in text
    assert 'slipway_http_requests_total{app="shop",code="5xx"} 1\n' in text
    assert 'slipway_http_request_duration_seconds_bucket{app="shop",le="+Inf"} 1\n' in text
    assert 'slipway_http_request_duration_seconds_bucket{app="shop",le="1"} 0\n' in text
    assert 'slipway_http_request_duration_seconds_bucket{app="shop",le="2"} 1\n' in text
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
    monkeypatch.setattr(metrics.host_look, "BACKUP_SETTINGS", status)
    told = metrics.Metrics()
    metrics.tell_certificates(told, tmp_path, ["shop"])
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


def test_a_certificate_that_no_application_has_is_not_told(tmp_path):
    for name in ("shop", "removed", "shop.provided-1f2e3d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fullchain.pem").write_text("no certificate")
    told = metrics.Metrics()
    metrics.tell_certificates(told, tmp_path, ["shop", "plain"])
    assert told.text().count("slipway_certificate_end_seconds{") == 1


def test_the_time_of_a_check_that_never_came_runs_from_when_it_was_set_up(tmp_path, monkeypatch):
    settings = tmp_path / "settings.json"
    monkeypatch.setattr(metrics.host_look, "BACKUP", tmp_path / "status.json")
    monkeypatch.setattr(metrics.host_look, "BACKUP_SETTINGS", settings)
    metrics.tell_backup(told := metrics.Metrics())
    assert told.text() == ""  # there is no backup
    settings.touch()
    os.utime(settings, (1795636800, 1795636800))
    metrics.tell_backup(told)
    assert told.text().endswith("slipway_backup_checked_seconds 1795636800\n")


def test_a_reboot_is_asked_for_since_the_first_time_until_it_has_come(tmp_path, monkeypatch):
    marker, now, state = tmp_path / "reboot-required", [1000.0], {}
    monkeypatch.setattr(metrics.host_look, "REBOOT_REQUIRED", marker)
    monkeypatch.setattr(metrics.time, "time", lambda: now[0])

    def since() -> str:
        metrics.tell_reboot(told := metrics.Metrics(), state)
        return told.text().partition("slipway_reboot_required_since_seconds gauge\n")[2]

    marker.touch()
    for now[0] in (1000.0, 2000.0):  # the marker is touched again by each upgrade
        os.utime(marker, (now[0], now[0]))
        assert since() == "slipway_reboot_required_since_seconds 1000\n"
    marker.unlink()
    assert since() == ""
    marker.touch()
    now[0] = 3000.0
    assert since() == "slipway_reboot_required_since_seconds 3000\n"


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
