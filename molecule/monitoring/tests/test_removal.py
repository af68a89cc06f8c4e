"""One variable leaves all of it out, and brings it back."""

from runs import changed

testinfra_hosts = ["ansible://application"]

DAEMONS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter",
           "prometheus-nginx-exporter", "prometheus-postgres-exporter")  # fmt: skip


def test_one_variable_stops_everything_and_starts_it_again(host, watch, playbook, site):
    def run(*arguments: str) -> str:
        done = playbook(*arguments)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    without = ("--extra-vars", '{"site_monitoring": false}')
    assert changed(run(*without, "--check")) > 0
    assert host.service("prometheus").is_running
    assert changed(run(*without)) > 0
    for name in DAEMONS:
        assert not host.service(name).is_running
        assert not host.service(name).is_enabled
    for timer in ("slipway-clock.timer", "slipway-metrics.timer"):
        assert host.run("systemctl cat %s", timer).rc != 0
    assert host.check_output("ss -ltnH 'sport >= 9090 and sport <= 9187'") == ""
    folders = "/etc/slipway/monitoring /usr/local/lib/slipway/metrics /run/slipway-metrics"
    assert host.run(f"find {folders} -type f").stdout == ""
    psql = host.run("runuser -u prometheus -- psql --dbname=postgres --command='SELECT 1'")
    assert "no pg_hba.conf entry" in psql.stderr
    assert site.ask("/health/live").status == 200
    assert changed(run(*without)) == 0

    assert changed(run("--check")) > 0
    assert changed(run()) > 0
    assert all(host.service(name).is_running for name in DAEMONS)
    assert watch.until(lambda: watch.ask("/api/v1/query?query=slipway_app_up").get("result"), 60)
    assert changed(run()) == 0
