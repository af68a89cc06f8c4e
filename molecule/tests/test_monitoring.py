"""Prometheus watches the host from within, by loopback only, and costs little memory."""

import json
import re

import pytest

testinfra_hosts = ["ansible://application"]

DAEMONS = {
    "prometheus": 9090,
    "prometheus-alertmanager": 9093,
    "prometheus-node-exporter": 9100,
    "prometheus-nginx-exporter": 9113,
    "prometheus-postgres-exporter": 9187,
}
NGINX_STATUS = 9112
MOST_BYTES = 150_000_000
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


@pytest.fixture
def daemons(knob) -> dict[str, int]:
    """Return the daemons that run, with their ports: Alertmanager if there is whom to tell."""
    told = knob("monitoring_webhook_url", "") or knob("monitoring_mail", {})
    return {name: port for name, port in DAEMONS.items() if told or port != 9093}


@pytest.fixture
def ask(host):
    """Return a function: what an HTTP API on the host answers."""
    return lambda url: json.loads(host.check_output("python3 -c %s %s", ASK, f"http://{url}"))


@pytest.fixture
def metric(ask):
    """Return a function: the values that Prometheus has of a query, by the label given."""

    def values(query: str, label: str) -> dict[str, float]:
        rows = ask(f"127.0.0.1:9090/api/v1/query?query={query}")["data"]["result"]
        return {row["metric"].get(label, ""): float(row["value"][1]) for row in rows}

    return values


@pytest.fixture
def rules(ask) -> dict[str, dict]:
    """Return the rules that Prometheus has loaded, by their names."""
    groups = ask("127.0.0.1:9090/api/v1/rules")["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def test_nothing_of_it_can_be_reached_from_outside(host, daemons):
    listening = host.check_output("ss --tcp --listening --numeric --no-header").splitlines()
    addresses = [line.split()[3] for line in listening]
    for port in [*daemons.values(), NGINX_STATUS]:
        assert [one for one in addresses if one.endswith(f":{port}")] == [f"127.0.0.1:{port}"]
    assert host.service("prometheus-alertmanager").is_running == (9093 in daemons.values())


def test_every_exporter_tells_and_what_is_told_is_fresh(metric, knob, daemons):
    jobs = {"nginx", "node", "postgresql", "prometheus"}
    jobs |= {"alertmanager"} if 9093 in daemons.values() else set()
    assert metric("up", "job") == dict.fromkeys(jobs, 1)
    assert metric("pg_up", "job") == {"postgresql": 1}
    assert metric("nginx_up", "job") == {"nginx": 1}
    (age,) = metric("time()-node_textfile_mtime_seconds", "job").values()
    looks = knob("monitoring_look_seconds", 30), knob("monitoring_scrape_seconds", 30)
    assert age < sum(looks) + 20


def test_the_metrics_say_what_the_system_says(host, metric, app, release, workers, sql):
    assert metric("slipway_app_up", "app") == {app: 1}
    assert metric("slipway_workers_alive", "app") == {app: len(workers)}
    assert metric("slipway_workers_promised", "app") == {app: len(workers)}
    assert metric("slipway_release_info", "release") == {release: 1}
    assert metric("slipway_unit_restarts_total", "unit").keys() >= {
        f"{app}@{release}.service",
        "nginx.service",
    }
    allowed = int(sql("SHOW max_connections")) - int(sql("SHOW superuser_reserved_connections"))
    assert metric("database:connections:allowed", "job") == {"": allowed}
    assert 0 < metric("database:connections:used", "job")[""] < allowed
    assert 0 < metric("machine:memory_available:ratio", "job")["node"] < 1
    assert 0 < metric("machine:disk_used:ratio", "mountpoint")["/"] < 1


def test_requests_are_counted_as_they_end(host, site, app):
    """The file is read, so that the test need not wait for Prometheus."""
    code = f'app="{app}",code="2xx"'

    def counted() -> float:
        host.check_output("systemctl start slipway-metrics.service")
        told = host.check_output("cat /run/slipway-metrics/slipway.prom")
        return float(re.search(rf"^slipway_http_requests_total{{{code}}} (\d+)$", told, re.M)[1])

    before = counted()
    for _ in range(7):
        assert site.ask("/health/live").status == 200
    assert 7 <= counted() - before < 50


def test_all_of_it_takes_little_memory(host, daemons):
    """As its share of what pages are resident or in the swap (PSS): what is free without it."""
    taken = {}
    for name in daemons:
        pid = host.service(name).systemd_properties["MainPID"]
        add_up = f"awk '/^(Swap)?Pss:/ {{sum += $2}} END {{print sum}}' /proc/{pid}/smaps_rollup"
        taken[name] = int(host.check_output(add_up))
    assert 0 < sum(taken.values()) * 1024 < MOST_BYTES, taken


def test_each_daemon_is_bounded_and_in_a_sandbox(host, knob, daemons):
    bounds = dict.fromkeys(daemons, 64) | {"slipway-metrics": 128}
    bounds["prometheus"] = knob("monitoring_prometheus_memory_max_mib", 192)
    for name, mib in bounds.items():
        shown = host.service(name).systemd_properties
        assert shown["MemoryMax"] == str(mib * 2**20)
        analyze = f"systemd-analyze security --no-pager {name}.service | tail --lines=1"
        assert float(host.check_output(analyze).split()[6]) <= 2.5


def test_prometheus_keeps_as_much_as_promised(ask, knob):
    flags = ask("127.0.0.1:9090/api/v1/status/flags")["data"]
    days = knob("monitoring_retention_days", 15)
    assert flags["storage.tsdb.retention.time"] in (f"{days}d", f"{days // 7}w")
    mib = knob("monitoring_retention_mib", 512)
    assert flags["storage.tsdb.retention.size"] == f"{mib}MiB"
    settings = ask("127.0.0.1:9090/api/v1/status/config")["data"]["yaml"]
    assert f"scrape_interval: {knob('monitoring_scrape_seconds', 30)}s" in settings
    assert f"host: {knob('monitoring_host_name', '')}" in settings
    ahead = knob("monitoring_out_of_order_days", days)
    assert re.search(rf"out_of_order_time_window: ({ahead}d|{ahead // 7}w)\n", settings)


def test_prometheus_is_restarted_when_the_clock_was_set(host):
    """faults-vm sets a clock and asks what Prometheus hears; a container has the machine's."""
    timer = host.service("slipway-clock.timer")
    assert timer.is_enabled
    assert timer.is_running
    assert timer.systemd_properties["OnClockChange"] == "yes"
    assert "try-restart prometheus" in host.check_output("systemctl cat slipway-clock.service")


def test_the_rules_have_the_bounds_of_the_inventory(rules, knob):
    window = knob("monitoring_window_seconds", 300)
    assert rules["app:requests:per_second"]["query"].count(f"[{span(window)}]") == 1
    for alert, name, promised in (
        ("AnswersFail", "monitoring_errors_percent", 5),
        ("AnswersFail", "monitoring_errors_least", 5),
        ("AnswersSlow", "monitoring_p99_milliseconds", 2000),
        ("AnswersSlow", "monitoring_slow_least", 5),
        ("RestartsInALoop", "monitoring_restarts", 3),
        ("ConnectionsNearTheLimit", "monitoring_connections_percent", 80),
        ("DiskFilling", "monitoring_disk_warn_percent", 80),
        ("DiskFull", "monitoring_disk_bad_percent", 90),
        ("MemoryShort", "monitoring_memory_available_percent", 10),
        ("MemoryStalls", "monitoring_memory_stalled_percent", 10),
        ("RebootPending", "monitoring_reboot_for_seconds", 108000),
        ("CertificateEnds", "monitoring_certificate_days", 14),
        ("BackupUnseen", "monitoring_backup_unseen_hours", 25),
    ):
        assert re.search(rf"[<>*=] {knob(name, promised)}\b", rules[alert]["query"]), alert
    assert rules["MemoryShort"]["duration"] == knob("monitoring_for_seconds", 300)
    assert rules["AppDown"]["duration"] == knob("monitoring_urgent_for_seconds", 60)
    look = knob("monitoring_look_seconds", 30)
    assert f"> {4 * look} " in rules["MetricsOld"]["query"]
    assert ("ClockOff" in rules) == knob("monitoring_clock", False)
    assert all(rule["health"] == "ok" for rule in rules.values())


def test_a_clock_that_nobody_keeps_is_an_alert_where_it_is_watched(rules, metric, knob):
    """A container tells nothing of its clock, if it may not even ask for it."""
    nobody_keeps_it = metric("node_timex_sync_status", "job").get("node") == 0
    state = rules.get("ClockOff", {}).get("state", "inactive")
    assert (state != "inactive") == (knob("monitoring_clock", False) and nobody_keeps_it)


def span(seconds: int) -> str:
    """Return a duration as Prometheus writes it."""
    minutes, rest = divmod(seconds, 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest else "")


def test_alertmanager_tells_whom_the_inventory_names(host, knob, daemons):
    """Asked of the settings it has loaded; without anybody to tell there are none."""
    file = host.file("/etc/slipway/monitoring/alertmanager.yml")
    assert file.exists == (9093 in daemons.values())
    mail = knob("monitoring_mail", {})
    command = "amtool --alertmanager.url=http://127.0.0.1:9093 config show"
    settings = host.run(command).stdout
    assert ("webhook_configs" in settings) == bool(knob("monitoring_webhook_url", ""))
    assert ("email_configs" in settings) == bool(mail)
    for wanted in (
        f"to: {mail.get('to')}",
        f"group_wait: {span(knob('monitoring_group_seconds', 30))}",
        f"repeat_interval: {knob('monitoring_repeat_hours', 12)}h",
    ):
        assert (wanted in settings) == file.exists
    assert not file.exists or (file.user, file.group, file.mode) == ("root", "prometheus", 0o640)


def test_who_watches_reads_statistics_and_no_data(host, sql, app):
    psql = "runuser -u prometheus -- psql --no-psqlrc --tuples-only --no-align"
    count = "SELECT count(*) FROM pg_stat_activity WHERE query IS NOT NULL"
    assert int(host.check_output(f"{psql} --dbname=postgres --command='{count}'")) > 0
    refused = host.run(f"{psql} --dbname={app} --command='SELECT 1'")
    assert "no pg_hba.conf entry" in refused.stderr
