"""The status says what the running system says. How soon it does: in the scenario deploy."""

import json

import pytest

testinfra_hosts = ["ansible://application"]


@pytest.fixture
def status(host, run_ops):
    """Return a function that asks for the status of this host alone."""
    return lambda *more: run_ops("--limit", host.backend.host, *more)


def test_the_status_says_what_the_system_says(host, app, release, workers, site, sql, status):
    host.run("systemctl start slipway-backup-check")
    for _ in range(20):
        assert site.ask("/health/live").status == 200
    document = json.loads(status("--json", "status").stdout)
    (one,) = document["hosts"]
    (seen,) = one["apps"]
    machine = one["machine"]
    assert one["host"] == host.backend.host
    assert (seen["app"], seen["release"], seen["serves"]) == (app, release, True)
    assert seen["workers"] == {"alive": len(workers), "promised": len(workers)}
    assert seen["requests"]["count"] >= 20
    assert 0 <= seen["requests"]["p50_ms"] <= seen["requests"]["p99_ms"] < 20_000
    limits = "'max_connections', 'superuser_reserved_connections'"
    settings = sql(
        f"SELECT setting FROM pg_settings WHERE name IN ({limits}) ORDER BY name"
    ).split()
    assert machine["database"]["allowed"] == int(settings[0]) - int(settings[1])
    assert 0 < machine["database"]["used"] <= machine["database"]["allowed"]
    assert 0 < machine["database"]["databases"][app]["cache_hit_percent"] <= 100
    free = int(host.check_output("df --output=avail --block-size=1M / | tail --lines=1"))
    assert abs(machine["disks"][0]["free_mib"] - free) < 500
    total = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert machine["memory"]["total_mib"] == total
    assert set(machine["updates"]) == {"security", "others"}
    assert machine["backup"]["lines"]["archive"]["said"] == "the archive follows."


def test_a_person_gets_a_line_for_each_question(status, release, workers):
    said = status("status").stdout
    assert f"release      {release}" in said
    assert f"workers      {len(workers)} of {len(workers)} alive" in said
    asked = "release workers requests database disk memory load certificate updates backup alerts"
    lines = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert {line[0] for line in lines} >= set(asked.split())
