"""The last 24 hours: what is read of nginx's logs, and the page that shows it."""

import gzip
import importlib.util
import json
import os
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail

import plugins

ROLE = Path(__file__).parents[1] / "roles/status"


def load(path: str):
    """Return a module or plugin of the role."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROLE / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugins.load("base/module_utils/host_look.py", "ansible.module_utils.host_look")
host_history = load("library/host_history.py")
write_report = load("action_plugins/write_report.py")
QUARTER = 900
NOW = 1_795_390_350  # 150 s of this quarter of an hour are over
START = NOW - 150 - 86_400


def line(at: float, status: int = 200, seconds: str = "0.010", app: str = "shop", agent: str = "x"):
    """Return a line of nginx's log."""
    return (
        f'203.0.113.7 - - [22/Nov/2026:23:30:00 +0000] "GET /a?b=" {status} 12 "-" "{agent}" '
        f"shop.example.org 0123456789abcdef 45.000 {seconds} {app} {at:.3f}\n"
    )


def read(log: Path, *, apps: tuple = ("shop",), seconds: float = 60):
    """Return the day of a log, read at NOW."""
    day = host_history.Day(list(apps), NOW)
    day.read(log, time.monotonic() + seconds)
    return day


def counts(day, app: str = "shop") -> dict[int, int]:
    """Return which bins have how many requests."""
    return {place: count for place, count in enumerate(day.app(app)["bins"]["count"]) if count}


@pytest.fixture
def log(tmp_path):
    """Return a log that was written to just now."""

    def write(text: str, name: str = "access.log", age: float = 0) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        os.utime(path, (NOW - age, NOW - age))
        return tmp_path / "access.log"

    return write


# -- the logs


def test_a_request_counts_in_its_quarter_of_an_hour(log):
    edges = [START, START + QUARTER - 0.001, START + QUARTER, NOW - 150.001, NOW - 150, NOW]
    day = read(log("".join(map(line, edges))))
    assert counts(day) == {0: 2, 1: 1, 95: 1, 96: 2}


def test_what_is_of_another_day_or_application_does_not_count(log):
    text = line(START - 1) + line(NOW - 9, app="blog") + line(NOW - 8) + line(NOW - 7, app="-")
    assert counts(read(log(text))) == {96: 1}
    both = read(log(text), apps=("shop", "blog", "new"))
    assert [both.app(app)["total"]["count"] for app in ("shop", "blog", "new")] == [1, 1, 0]


def test_rotated_logs_are_read_on_and_compressed_ones_too(log):
    log(line(START + 10) + line(START + 10_000), "access.log.2.gz", age=70_000)
    log(line(NOW - 60_000) + line(NOW - 50_000), "access.log.1", age=50_000)
    path = log(line(NOW - 1000) + line(NOW - 10))
    assert sum(counts(read(path)).values()) == 6


def test_a_log_of_before_yesterday_is_not_opened(log, tmp_path):
    path = log(line(NOW - 10))
    log("no gzip", "access.log.3", age=90_000)
    (tmp_path / "access.log.3").rename(tmp_path / "access.log.3.gz")
    assert sum(counts(read(path)).values()) == 1


def test_reading_ends_where_the_day_begins(log, monkeypatch):
    monkeypatch.setattr(host_history, "BLOCK", 4096)
    path = log(line(START - 1) * 100_000 + line(NOW - 10) * 10)
    blocks, seen = host_history.blocks, []

    def counted(path: Path):
        for block in blocks(path):
            seen.append(block)
            yield block

    monkeypatch.setattr(host_history, "blocks", counted)
    assert counts(read(path)) == {96: 10}
    assert len(seen) < 3


def test_lines_come_whole_whatever_the_size_of_a_block(log, tmp_path, monkeypatch):
    text = "".join(line(START + 60 * number) for number in range(1400))
    path = log(text)
    log(text, "other.gz")
    for size in (1, 7, 64, 1000, 10_000_000):
        monkeypatch.setattr(host_history, "BLOCK", size)
        for name in (path, tmp_path / "other.gz"):
            found = Counter()
            for block in host_history.blocks(name):
                found.update(host_history.LINES.findall(block))
            assert found.total() == 1400


def test_what_there_was_no_time_for_is_unknown_and_not_nothing(log, monkeypatch):
    monkeypatch.setattr(host_history, "BLOCK", 1 << 12)
    path = log("".join(line(START + number) for number in range(0, 86_000, 5)))
    ticks = iter(range(1000))
    monkeypatch.setattr(host_history.time, "monotonic", lambda: next(ticks))
    day = host_history.Day(["shop"], NOW)
    day.read(path, 100)
    first = (day.known_from - START) // QUARTER
    assert 70 < first < 96
    seen = day.app("shop")
    assert seen["bins"]["count"][:first] == [None] * first
    assert None not in seen["bins"]["count"][first:]
    assert seen["total"]["count"] == sum(seen["bins"]["count"][first:])


def test_what_is_older_than_the_logs_is_unknown_too(log):
    day = read(log(line(NOW - 5000) + line(NOW - 10)))
    assert day.known_from == (NOW - 5000) // 100 * 100
    assert day.app("shop")["bins"]["count"] == [None] * 90 + [1, 0, 0, 0, 0, 0, 1]
    quiet = read(log(line(START - 5000) + line(NOW - 10)))
    assert quiet.app("shop")["bins"]["count"] == [0] * 96 + [1]


def test_there_may_be_no_log_or_none_of_today(log, tmp_path):
    assert read(tmp_path / "none.log").app("shop")["total"]["count"] == 0
    assert read(log(line(START - 100_000), age=100_000)).known_from == START


def test_a_client_cannot_write_a_line_of_its_own(log):
    forged = rf"\x22 500 1 \x22-\x22 \x22-\x22 h 0f 9.999 9.9 shop {NOW - 9}.000"
    seen = read(log(line(NOW - 5, agent=forged))).app("shop")["total"]
    assert (seen["count"], seen["answers_5xx"], seen["p99_ms"]) == (1, 0, 10)


def test_percentiles_and_errors_are_those_of_the_requests(log):
    rows = [line(NOW - 5, seconds=f"{number / 1000:.3f}") for number in range(1, 101)]
    total = read(log("".join(rows) + line(NOW - 5, 502, "12.345"))).app("shop")["total"]
    assert total == {"count": 101, "p50_ms": 51, "p99_ms": 100, "answers_5xx": 1}
    assert host_history.milliseconds(b"12.345") == 12_300
    assert host_history.milliseconds(b"0.999") == 999


def test_without_prometheus_the_machine_has_no_history():
    assert host_history.machine("http://127.0.0.1:9", NOW) is None


# -- the page


def history(counts: dict[int, int] | None = None, machine: dict | None = None, **more) -> dict:
    """Return what the module tells of a day of the shop."""
    bins = [(counts or {}).get(place, 0) for place in range(97)]
    asked = [10 if count else None for count in bins]
    shop = {
        "total": {"count": sum(bins), "p50_ms": 10, "p99_ms": 10, "answers_5xx": 0},
        "bins": {"count": bins, "p50_ms": asked, "p99_ms": asked, "answers_5xx": [0] * 97},
    }
    return {"start": START, "now": NOW, "bin_seconds": QUARTER, "known_from": START,
            "apps": {"shop": shop}, "machine": machine, **more}  # fmt: skip


def host(**changes) -> dict:
    """Return a machine and its application as the modules tell them."""
    asked = {"window_seconds": 300, "count": 300, "per_second": 1.0, "p50_ms": 7, "p99_ms": 1234,
             "answers_5xx": 0}  # fmt: skip
    app = {"app": "shop", "release": "20261122T232742Z-414c4a6", "revision": "b052ef0",
           "version": "", "since": "2026-11-22T23:27:46Z", "serves": True, "healthy": True,
           "restarts": 0,
           "requests": asked, "workers": {"alive": 5, "promised": 5}, "maintenance": False,
           "releasing": ""}  # fmt: skip
    machine = {"uptime_seconds": 9000, "load": 0.5, "processors": 2, "certificates": [],
               "disks": [{"path": "/", "used_percent": 29, "free_mib": 741}],
               "memory": {"total_mib": 2000, "available_mib": 500}, "database": None,
               "updates": None, "reboot_required": False, "backup": None, "alerts": None,
               "has_database": True}  # fmt: skip
    made = {"host": "vps", "machine": machine, "apps": [app], "history": history({50: 900})}
    app.update(changes.pop("app", {}))
    machine.update(changes.pop("machine", {}))
    return {**made, **changes}


class Page(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        """Keep an element."""
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        """Keep text."""
        self.text += data

    def all(self, name: str) -> list[dict]:
        """Return the attributes of all elements of a kind."""
        return [attributes for tag, attributes in self.elements if tag == name]


def page(*hosts: dict, silent: tuple = ()) -> Page:
    """Return the page of these hosts."""
    template = (ROLE / "templates/report.html.j2").read_text()
    return Page(write_report.render(template, list(hosts), list(silent), NOW, "Ansible managed"))


def test_the_page_says_what_the_status_says():
    one = host()
    said = page(one).text
    tell = write_report.tell
    for name, text in [*tell.app_lines(one["apps"][0]), *tell.machine_lines(one["machine"])]:
        assert name in ("workers", "requests") or text in said
    for figure in ("1.2 s", "7 ms", "5/5", "29 %", "75 %"):
        assert figure in said


@pytest.fixture
def at_now(monkeypatch):
    """Stop the clock: what is told of ages is the same every day."""
    monkeypatch.setattr(write_report.tell.time, "time", lambda: NOW)


@pytest.mark.usefixtures("at_now")
def test_a_person_reads_every_figure_of_a_machine_that_is_well():
    asked = {"window_seconds": 300, "count": 3721, "per_second": 12.4, "p50_ms": 15, "p99_ms": 47,
             "answers_5xx": 3}  # fmt: skip
    shop = {"used": 9, "size_mib": 41, "cache_hit_percent": 99.95}
    new = {"used": 0, "size_mib": 8, "cache_hit_percent": None}  # nothing was read yet
    disks = [{"path": "/", "used_percent": 29, "free_mib": 74171},
             {"path": "/srv", "used_percent": 80, "free_mib": 1024}]  # fmt: skip
    said = {"backup": "3 hours old, of 29 MiB.", "archive": "the archive follows.",
            "drill": "the drill of 2 days ago took 6 s."}  # fmt: skip
    lines = {name: {"state": "ok", "said": text} for name, text in said.items()}
    machine = {
        "database": {"used": 10, "allowed": 97, "databases": {"shop": shop, "new": new}},
        "disks": disks,
        "memory": {"total_mib": 1967, "available_mib": 1205},
        "load": 0.314,
        "uptime_seconds": 13 * 86400 + 7200,
        "certificates": [{"app": "shop", "days": 71}, {"app": "blog", "days": 9}],
        "updates": {"security": 2, "others": 3},
        "backup": {"checked": "2026-11-22T23:00:00Z", "lines": lines},
        "alerts": {"error": "", "firing": []},
    }
    app = {"requests": asked, "version": "v1.2"}
    assert write_report.tell.page(host(app=app, machine=machine)).splitlines() == [
        "",
        "shop",
        "  release      20261122T232742Z-414c4a6 (b052ef0 v1.2) since 2026-11-22T23:27:46Z, 4 min",
        "  workers      5 of 5 alive",
        "  requests     12.4 per second, p50 15 ms, p99 47 ms, 3 answers 5xx in the last 5 min",
        "",
        "vps",
        "  database     10 of 97 connections; shop: 9, 41 MiB, 99.95 % of reads from the cache;"
        " new: 0, 8 MiB",
        "  disk         29 % of / used, 74171 MiB free; 80 % of /srv used, 1024 MiB free",
        "  memory       1205 of 1967 MiB available",
        "  load         0.31 on 2 processors, up 13 d",
        "  certificate  shop 71 days, blog 9 days",
        "  updates      2 security, 3 others wait",
        "  backup       3 hours old, of 29 MiB; the drill of 2 days ago took 6 s",
        "  alerts       none is firing",
    ]


@pytest.mark.usefixtures("at_now")
@pytest.mark.parametrize(
    ("app", "lines"),
    [
        (
            {"release": ""},
            {"release": "none yet: ansible-playbook playbooks/deploy-application.yml"},
        ),
        (
            {"serves": False},
            {
                "release": "20261122T232742Z-414c4a6 (b052ef0) since 2026-11-22T23:27:46Z, 4 min"
                ": IT IS DOWN"
            },
        ),
        (
            {"healthy": False},
            {
                "release": "20261122T232742Z-414c4a6 (b052ef0) since 2026-11-22T23:27:46Z, 4 min"
                ": ITS HEALTH CHECK FAILS"
            },
        ),
        (
            {"workers": {"alive": 3, "promised": 5}, "restarts": 2},
            {"workers": "3 of 5 alive, restarted 2 times by systemd"},
        ),
        (
            {"requests": {"window_seconds": 60, "count": 0, "per_second": 0.0, "p50_ms": None,
                          "p99_ms": None, "answers_5xx": 0}},
            {"requests": "0 per second, 0 answers 5xx in the last 60 s"},
        ),
        ({"maintenance": True}, {"maintenance": "ON: visitors see its page"}),
        ({"releasing": "ana@laptop"}, {"releasing": "ana@laptop has the lock"}),
    ],
)  # fmt: skip
def test_a_person_reads_what_is_not_usual_of_an_application(app, lines):
    usual = {"release", "workers", "requests"} if app.get("release", "is") else set()
    said = dict(write_report.tell.app_lines(host(app=app)["apps"][0]))
    assert said.keys() == usual | lines.keys()
    assert {name: said[name] for name in lines} == lines


def backup(checked: str, **said: str) -> dict:
    """Return what the check of the backup has found to be wrong."""
    lines = {name: {"state": "bad", "said": text} for name, text in said.items()}
    fine = {"state": "ok", "said": "3 hours old, of 29 MiB."}
    return {"checked": checked, "lines": {"backup": fine, **lines}}


FIRING = [
    {"alert": "AppDown", "subject": "shop"},
    {"alert": "ConnectionsNearTheLimit", "subject": ""},
]


@pytest.mark.usefixtures("at_now")
@pytest.mark.parametrize(
    ("machine", "name", "line"),
    [
        ({"database": None}, "database", "does not answer"),
        ({"database": None, "has_database": False}, "database", "none on this machine"),
        ({"certificates": []}, "certificate", "none: plain HTTP"),
        ({"certificates": [{"app": "shop", "days": None}]}, "certificate", "shop broken"),
        ({"updates": None}, "updates", "apt cannot tell"),
        (
            {"updates": {"security": 0, "others": 0}, "reboot_required": True},
            "updates",
            "0 security, 0 others wait, a reboot too",
        ),
        ({"backup": None}, "backup", "none"),
        (
            {"backup": backup("2026-11-22T23:00:00Z", archive="it is behind.", drill="it failed.")},
            "backup",
            "RED, archive: it is behind. drill: it failed.",
        ),
        (
            {"backup": backup("2026-11-21T22:32:29Z")},  # 25 h and 1 s ago
            "backup",
            "RED, nobody has looked at it for 25 h",
        ),
        ({"backup": backup("2026-11-21T22:32:30Z")}, "backup", "3 hours old, of 29 MiB"),
        ({"alerts": None}, "alerts", "none are set up: site_monitoring is false"),
        (
            {"alerts": {"error": "Prometheus does not answer: no route", "firing": []}},
            "alerts",
            "UNKNOWN, Prometheus does not answer: no route",
        ),
        (
            {"alerts": {"error": "", "firing": FIRING}},
            "alerts",
            "2 FIRING: AppDown (shop), ConnectionsNearTheLimit",
        ),
    ],
)
def test_a_person_reads_what_is_not_usual_of_a_machine(machine, name, line):
    assert dict(write_report.tell.machine_lines(host(machine=machine)["machine"]))[name] == line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"),
     (172799, "47 h"), (172800, "2 d")],
)  # fmt: skip
def test_a_duration_is_told_in_the_largest_unit_of_which_there_are_two(seconds, said):
    assert write_report.tell.duration(seconds) == said


def test_no_value_can_become_a_part_of_the_page():
    evil = """"'><script>alert(1)</script><img src=http://x/ onerror=a>{{ 7*7 }}"""
    data = history({50: 900}, {"processor": [1] * 97, "memory": [], "disk": [], "connections": []})
    data["apps"] = {evil: data["apps"]["shop"]}
    names = {"app": evil, "release": evil, "version": evil, "releasing": evil}
    lines = {"backup": {"state": "bad", "said": evil}}
    backup = {"checked": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "lines": lines}
    machine = {"backup": backup, "certificates": [{"app": evil, "days": 3}]}
    plain = page(host(history=history({50: 900}, data["machine"])), silent=["mail"])
    attacked = page(host(host=evil, history=data, app=names, machine=machine), silent=[evil])
    assert {tag for tag, _ in attacked.elements} == {tag for tag, _ in plain.elements}
    assert not [name for _, given in attacked.elements for name in given if name.startswith("on")]
    assert attacked.text.count("<script>alert(1)</script>") >= 6
    assert "49" not in attacked.text.replace(":49", "")


def test_nothing_of_the_page_is_elsewhere():
    html = page(host())
    assert not html.all("script")
    links = [given.get("href", given.get("src")) for _, given in html.elements]
    assert {link for link in links if link} == {"data:,"}
    assert not any(word in html.text for word in ("@import", "url(", "//"))
    assert "default-src 'none'" in html.all("meta")[1]["content"]


def test_every_plot_has_a_title_and_a_description():
    seen = page(host(), host(host="other"))
    ids = [given["id"] for _, given in seen.elements if "id" in given]
    assert len(ids) == len(set(ids))
    plots = seen.all("svg")
    assert len(plots) == 6
    for plot in plots:
        assert plot["role"] == "img"
        assert set(plot["aria-labelledby"].split()) <= set(ids)


def test_a_plot_says_the_number_of_each_bin():
    seen = page(host(history=history({50: 900, 51: 450, 96: 300})))
    assert "1 per second" in seen.text
    assert "0.5 per second" in seen.text
    assert "2 per second" in seen.text  # of the 150 s that are over
    assert "0.019 on average, at most 2" in seen.text


def test_columns_and_lines_are_as_high_as_their_values():
    assert write_report.columns([None, 50, 0, 100]) == "M1 100V50.0h1V100zM3 100V0.0h1V100z"
    assert write_report.line([10, 20, None, 30]) == "M0.5 90.0h0L1.5 80.0M3.5 70.0h0"
    assert write_report.linear([None, 0, 1, 500], 1000) == [None, 0, 2, 50]


@pytest.mark.parametrize(
    ("largest", "scale"),
    [(0.013, [0, 0.01, 0.02]), (0.9, [0, 0.5, 1]), (37, [0, 20, 40]), (412, [0, 300, 600])],
)
def test_a_scale_ends_at_a_round_number(largest, scale):
    assert write_report.steps(largest) == pytest.approx(scale)


def test_a_quiet_day_has_a_sentence_and_no_plot():
    quiet = page(host(history=history()))
    assert "No requests in 24 hours." in quiet.text
    assert quiet.all("svg") == []
    assert "it has no Prometheus" in quiet.text


def test_what_is_older_than_the_logs_is_drawn_as_unknown():
    data = history({96: 300}, known_from=START + 90 * QUARTER)
    bins = data["apps"]["shop"]["bins"]
    for row in bins.values():
        row[:90] = [None] * 90
    seen = page(host(history=data))
    assert [rect["width"] for rect in seen.all("rect") if rect["class"] == "unknown"] == ["90"] * 3
    assert "when the logs begin" in seen.text


def test_what_is_wrong_stands_on_top():
    lines = {"archive": {"state": "bad", "said": "the archive is behind."}}
    backup = {"checked": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "lines": lines}
    seen = page(host(app={"serves": False}, machine={"backup": backup}), silent=["mail"])
    top = seen.text.partition("the last 24 hours")[0]
    assert "Not everything serves as promised" in top
    assert "shop is down." in " ".join(top.split())
    assert "mail could not be asked." in " ".join(top.split())
    assert "vps backup: RED, archive: the archive is behind." in " ".join(top.split())
    assert write_report.RED.match("2 FIRING: DiskFull (/), AppDown (shop)")
    assert not write_report.RED.match("none is firing")
    assert "Everything serves as promised" in page(host()).text


def test_the_machine_is_drawn_where_prometheus_has_it():
    values = [None] * 90 + [10, 20, 30, 40, 50, 60, 12.5]
    machine = {"processor": values, "memory": values, "disk": values, "connections": [None] * 97}
    seen = page(host(history=history({50: 900}, machine)))
    assert len(seen.all("svg")) == 6
    assert "last 12.5 %, at most 60 %" in seen.text


def test_the_page_is_written_whole_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "report.html"
    write_report.write(path, "first")
    write_report.write(path, "chào")
    assert path.read_text() == "chào"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["report.html"]
    with pytest.raises(AnsibleActionFail, match="Fix: "):
        write_report.write(tmp_path / "none/report.html", "")


def test_the_history_travels_as_json(log):
    day = read(log(line(NOW - 10)), apps=("shop",))
    assert json.loads(json.dumps(day.app("shop")))["total"]["count"] == 1
