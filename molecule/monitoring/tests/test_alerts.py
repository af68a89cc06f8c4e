"""Each alert: the thing is broken and it fires; the thing is mended and it clears."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

testinfra_hosts = ["ansible://application"]

SMALL = "/srv/small"
# systemd does so on a machine of its own, and not in a container: what is mounted later then shows
# within the sandboxes of services.
SHARE = "mount --make-rshared / && systemctl restart prometheus-node-exporter"
TLS = "/etc/slipway/tls/webapp"
CHECK = "systemctl start slipway-backup-check.service"
CHECKS = "slipway-backup-check.timer"
SETTINGS = "/etc/slipway/backup/settings.json"
STATUS = "/var/lib/slipway/backup/status.json"
REPOSITORY = "/var/backups/slipway/pgbackrest"
# One that node-exporter cannot read; the timer goes on writing the other.
NO_METRICS = "/run/slipway-metrics/broken.prom"
METRICS = "slipway-metrics.timer"


def certificate(days: int) -> str:
    """Return the command that puts a certificate for so many days in place."""
    return (
        f"mkdir -p {TLS} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        f" -keyout {TLS}/privkey.pem -out {TLS}/fullchain.pem -subj /CN=webapp -days {days}"
    )


@pytest.mark.parametrize(
    ("alert", "subject", "broken", "mended", "cleaned"),
    [
        ("AppDown", "webapp", "systemctl stop webapp.target", "systemctl start webapp.target", ""),
        ("ProxyDown", "nginx", "systemctl stop nginx", "systemctl start nginx", ""),
        (
            "DatabaseDown",
            "postgresql",
            "systemctl stop 'postgresql@*' postgresql",
            "systemctl start postgresql",
            "",
        ),
        (
            "DiskFilling",
            SMALL,
            f"{SHARE} && mkdir {SMALL} && mount -t tmpfs -o size=32M tmpfs {SMALL}"
            f" && fallocate --length 27M {SMALL}/ballast",
            f"rm {SMALL}/ballast",
            f"umount {SMALL}; rmdir {SMALL}",
        ),
        (
            "DiskFull",
            SMALL,
            f"{SHARE} && mkdir {SMALL} && mount -t tmpfs -o size=32M tmpfs {SMALL}"
            f" && fallocate --length 30M {SMALL}/ballast",
            f"rm {SMALL}/ballast",
            f"umount {SMALL}; rmdir {SMALL}",
        ),
        ("RebootPending", "node", "touch /run/reboot-required", "rm /run/reboot-required", ""),
        ("CertificateEnds", "webapp", certificate(13), certificate(90), f"rm -r {TLS}"),
        (
            "BackupBad",
            "backup",
            f"mv {REPOSITORY} {REPOSITORY}.away; {CHECK} || true",
            f"[ ! -d {REPOSITORY}.away ] || {{ rm -rf {REPOSITORY};"
            f" mv {REPOSITORY}.away {REPOSITORY}; }}; {CHECK}",
            "",
        ),
        (
            "BackupUnseen",
            "node",
            f"systemctl stop {CHECKS}"
            f' && sed -i \'s/"checked": *"20..-/"checked": "2020-/\' {STATUS}',
            f"{CHECK} && systemctl start {CHECKS}",
            "",
        ),
        (  # it was set up long ago, and never looked
            "BackupUnseen",
            "node",
            f"systemctl stop {CHECKS} && rm {STATUS} && touch --date=2020-01-01 {SETTINGS}",
            f"{CHECK} && systemctl start {CHECKS}",
            f"touch {SETTINGS}",
        ),
        (
            "ExporterDown",
            "nginx",
            "systemctl stop prometheus-nginx-exporter",
            "systemctl start prometheus-nginx-exporter",
            "",
        ),
        ("MetricsOld", "node", f"systemctl stop {METRICS}", f"systemctl start {METRICS}", ""),
        (  # as after a reboot: /run is empty
            "MetricsOld",
            "node",
            f"systemctl stop {METRICS} slipway-metrics && rm /run/slipway-metrics/slipway.prom",
            f"systemctl start {METRICS}",
            "",
        ),
        ("MetricsOld", "node", f"echo no metrics > {NO_METRICS}", f"rm {NO_METRICS}", ""),
    ],
)
def test_an_alert_fires_while_the_thing_is_broken(
    host, watch, afterwards, alert, subject, broken, mended, cleaned
):
    if "Backup" in alert:
        host.check_output("systemctl start slipway-backup.service")
        host.check_output(CHECK)
    assert watch.clears(alert, subject)
    afterwards(cleaned)
    afterwards(mended)
    host.check_output("sh -c %s", broken)
    assert watch.fires(alert, subject), watch.firing()
    host.check_output("sh -c %s", mended)
    assert watch.clears(alert, subject), watch.firing()


def test_a_drill_that_was_killed_fires_until_one_holds(host, watch):
    host.check_output("systemctl start slipway-backup.service")
    host.check_output("systemctl start --no-block slipway-drill.service")
    time.sleep(2)
    host.check_output("systemctl kill --signal=KILL slipway-drill.service")
    assert host.run(CHECK).rc != 0
    assert watch.fires("DrillFailed", "drill"), watch.firing()
    host.check_output("systemctl start slipway-drill.service")
    host.check_output(CHECK)
    assert watch.clears("DrillFailed", "drill"), watch.firing()


def test_answers_500_fire_until_the_application_is_well(host, watch, site, sql, afterwards):
    afterwards("runuser -u postgres -- psql webapp -c 'ALTER TABLE gone RENAME TO users'")
    assert watch.clears("AnswersFail", "webapp")
    sql("ALTER TABLE users RENAME TO gone")
    for _ in range(8):
        assert site.ask("/users").status == 500
        time.sleep(1)
    assert watch.fires("AnswersFail", "webapp"), watch.firing()
    sql("ALTER TABLE gone RENAME TO users")
    assert site.ask("/users").status == 200
    assert watch.clears("AnswersFail", "webapp"), watch.firing()


def test_slow_answers_fire_until_they_are_quick_and_a_single_one_does_not(host, watch, site):
    def ask_while_locked(times: int) -> None:
        hold = "BEGIN; LOCK TABLE users; SELECT pg_sleep(3)"
        psql = f"runuser -u postgres -- psql --dbname=webapp --command '{hold}'"
        host.check_output(f"systemd-run --collect {psql}")
        time.sleep(1)
        with ThreadPoolExecutor() as clients:
            answers = list(clients.map(site.ask, ["/users"] * times))
        assert {answer.status for answer in answers} == {200}

    assert watch.clears("AnswersSlow", "webapp")
    ask_while_locked(1)
    assert not watch.fires("AnswersSlow", "webapp", 25)
    ask_while_locked(8)
    assert watch.fires("AnswersSlow", "webapp"), watch.firing()
    for _ in range(20):
        assert site.ask("/users").status == 200
    assert watch.clears("AnswersSlow", "webapp"), watch.firing()


def test_a_worker_that_nobody_replaces_fires(host, watch, workers, master_pid, afterwards):
    assert watch.clears("WorkersMissing", "webapp")
    afterwards(f"kill -CONT {master_pid}")
    host.check_output(f"kill -STOP {master_pid} && kill -KILL {workers[0].pid}")
    assert watch.fires("WorkersMissing", "webapp"), watch.firing()
    host.check_output(f"kill -CONT {master_pid}")
    assert watch.clears("WorkersMissing", "webapp"), watch.firing()


def test_a_service_that_dies_again_and_again_fires(host, watch, app, release):
    unit = f"{app}@{release}.service"
    assert watch.clears("RestartsInALoop", unit)
    for _ in range(4):
        host.check_output(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
        time.sleep(8)
    assert watch.fires("RestartsInALoop", unit), watch.firing()
    assert watch.clears("RestartsInALoop", unit), watch.firing()
    assert host.service(unit).is_running


def test_connections_near_the_limit_fire(host, watch, afterwards):
    assert watch.clears("ConnectionsNearTheLimit", "")
    afterwards("systemctl stop crowd")
    come = "[psycopg2.connect('dbname=webapp host=/run/postgresql') for _ in range(80)]"
    code = f"import psycopg2, time; crowd = {come}; time.sleep(600)"
    host.check_output("systemd-run --unit=crowd --uid=webapp python3 -c %s", code)
    assert watch.fires("ConnectionsNearTheLimit", ""), watch.firing()
    host.check_output("systemctl stop crowd")
    assert watch.clears("ConnectionsNearTheLimit", ""), watch.firing()


def test_memory_that_is_short_fires(host, watch, afterwards, playbook):
    """The machine has much memory and other tenants: the bound is set to what is there now."""
    seen = "awk '/^MemTotal/ {all=$2} /^MemAvailable/ {print int(100 * $2 / all)}' /proc/meminfo"
    bound = int(host.check_output(seen)) - 8
    set_bound = ("--tags", "monitoring", "--extra-vars")
    assert playbook(*set_bound, f"monitoring_memory_available_percent={bound}").returncode == 0
    assert watch.clears("MemoryShort", "node"), watch.firing()
    afterwards("systemctl stop hungry")
    eat = "import time; eaten = b'x' * (int(open('/proc/meminfo').read().split()[1]) * 160)"
    host.check_output("systemd-run --unit=hungry python3 -c %s", f"{eat}; time.sleep(300)")
    assert watch.fires("MemoryShort", "node"), watch.firing()
    host.check_output("systemctl stop hungry")
    assert watch.clears("MemoryShort", "node"), watch.firing()
    assert playbook("--tags", "monitoring").returncode == 0
