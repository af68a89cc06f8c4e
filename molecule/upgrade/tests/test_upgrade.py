"""A server of Debian 12 becomes one of Debian 13, its database too.

Each test begins where the one before it has ended.
"""

import json
import re
import subprocess

import pytest
from conftest import JOURNAL, PROJECT, bring_to, kill, steps_of_the_page
from runs import changed

testinfra_hosts = ["ansible://upgraded"]


def pid_of(host, version: int = 15) -> str:
    """Return the process id of PostgreSQL."""
    unit = f"postgresql@{version}-main"
    return host.check_output("systemctl show --value --property=MainPID %s", unit)


def by_hand(host, commands: str, seconds: int = 1800) -> str:
    """Run commands as somebody does who has logged in."""
    command = [PROJECT / "molecule/hosts/host", "exec", "upgraded", "bash", "-euxc", commands]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def backups_of(host, version: str) -> set[str]:
    """Return the labels of the backups of the cluster of a version."""
    info = "cd / && runuser -u postgres -- pgbackrest --stanza=main --output=json info"
    (stanza,) = json.loads(host.check_output(info))
    systems = {one["id"] for one in stanza["db"] if one["version"] == version}
    return {one["label"] for one in stanza["backup"] if one["database"]["id"] in systems}


def machine(word: str) -> None:
    """Start, stop or kill the host."""
    command = [PROJECT / "molecule/hosts/host", word, "upgraded"]
    subprocess.run(command, check=True, capture_output=True)


def test_a_minor_update_takes_seconds_and_no_restart_of_the_application(
    host, writer, names, master_pid, workers
):
    before = {process.pid for process in workers}
    pid = pid_of(host)
    by_hand(host, "DEBIAN_FRONTEND=noninteractive apt-get install --reinstall -y postgresql-15")
    host.check_output("sleep 3")
    writer.stop()
    print(f"the longest time between two rows: {writer.longest_gap:.1f} s")
    assert pid_of(host) != pid
    assert writer.longest_gap < 20
    assert writer.acknowledged[-1][1] - writer.acknowledged[0][1] > writer.longest_gap + 2
    assert writer.names <= names()
    assert {process.pid for process in host.process.filter(ppid=master_pid)} == before


def test_the_system_is_upgraded_while_the_site_serves(host, writer, names, serving):
    by_hand(host, steps_of_the_page("The system"))
    host.check_output("sleep 3")
    writer.stop()
    print(f"the longest time between two rows: {writer.longest_gap:.1f} s")
    # Not host.system_info, which remembers what it was.
    assert host.check_output("cat /etc/debian_version").startswith("13.")
    assert host.check_output("runuser -l postgres -c 'systemctl list-units --failed -q'") == ""
    assert writer.longest_gap < 60
    assert writer.names <= names()
    assert serving() == 15


def test_site_yml_refuses_and_says_what_to_do(host, playbook):
    pid = pid_of(host)
    done = playbook()
    assert done.returncode != 0
    assert "has a PostgreSQL 15" in done.stdout
    assert "./ops upgrade-database" in done.stdout
    assert changed(done.stdout) == 0
    assert pid_of(host) == pid


def test_site_yml_goes_on_with_the_old_version_where_it_is_told_to(host, playbook, serving):
    done = playbook("--extra-vars", "postgresql_version=15", "--tags", "always,postgresql,backup")
    assert done.returncode == 0, done.stdout
    assert serving() == 15


def test_a_release_of_the_old_python_is_refused_before_anything_stops(host, upgrade):
    pid = pid_of(host)
    done = upgrade()
    assert done.returncode != 0
    assert "The release of webapp would not start again" in done.text
    assert "./ops deploy" in done.text
    assert pid_of(host) == pid


def test_a_deploy_makes_the_release_anew_and_no_request_is_lost(host, writer, run_ops):
    old = host.check_output("readlink /srv/webapp/current")
    done = run_ops("deploy")
    writer.stop()
    assert done.returncode == 0, done.stdout
    assert host.check_output("readlink /srv/webapp/current") != old
    python = "/srv/webapp/current/venv/bin/python"
    assert host.check_output(f"{python} --version").startswith("Python 3.13.")
    assert writer.refused == []
    assert len(writer.acknowledged) > 20


# What is in the way, how it comes there, and how it is taken away.
EXTENSION = "/usr/share/postgresql/15/extension"
OBSTACLES = {
    "lacks extensions in use: slipway_test": (
        f"""echo "default_version = '1'" > {EXTENSION}/slipway_test.control
        echo 'SELECT 1;' > {EXTENSION}/slipway_test--1.sql
        runuser -u postgres -- psql webapp -c 'CREATE EXTENSION slipway_test'""",
        "runuser -u postgres -- psql webapp -c 'DROP EXTENSION slipway_test'",
    ),
    "17/main already, and it holds something": (
        """pg_lsclusters --no-header | grep -q '^17 ' || pg_createcluster 17 main
        pg_ctlcluster 17 main start || true
        runuser -u postgres -- psql --cluster 17/main -c 'CREATE DATABASE precious'""",
        "runuser -u postgres -- psql --cluster 17/main -c 'DROP DATABASE precious'",
    ),
    "does not know the locale of the databases, en_US.UTF-8": (
        "localedef --delete-from-archive en_US.utf8",
        "locale-gen",
    ),
    "does not answer, so nobody could tell": (
        "systemctl stop webapp.target",
        "systemctl start webapp.target; sleep 3",
    ),
    "cannot become 17 as it is": (
        "runuser -u postgres -- psql webapp -c 'CREATE TABLE holder (held regproc)'",
        "runuser -u postgres -- psql webapp -c 'DROP TABLE holder'",
    ),
}


@pytest.mark.parametrize("said", OBSTACLES)
def test_an_obstacle_is_told_before_anything_stops(host, upgrade, afterwards, said):
    make, take_away = OBSTACLES[said]
    pid = pid_of(host)
    afterwards(take_away)
    by_hand(host, make)
    done = upgrade()
    assert done.returncode != 0
    assert said in " ".join(done.text.split())
    assert "Fix:" in done.text
    assert pid_of(host) == pid
    assert host.run(f"grep -q copying {JOURNAL}").rc != 0


def test_nothing_is_done_without_a_yes(host, upgrade):
    pid = pid_of(host)
    done = upgrade(yes=False)
    assert done.returncode != 0
    assert "PostgreSQL 15 to 17" in done.text
    assert "Nothing was done." in done.text
    assert pid_of(host) == pid


def test_an_upgrade_whose_gate_fails_takes_itself_back(
    host, upgrade, afterwards, writer, names, serving
):
    """Here the application does not start while PostgreSQL 17 has the port."""
    folder = "/run/systemd/system/webapp@.service.d"
    conf = "/etc/postgresql/17/main/postgresql.conf"
    afterwards(f"rm -r {folder}; systemctl daemon-reload")
    by_hand(
        host,
        f"""mkdir -p {folder}
        echo '[Service]
        ExecStartPre=+/bin/sh -c "! grep -qs \\"^port = 5432\\" {conf}"' > {folder}/test.conf
        systemctl daemon-reload""",
    )
    done = upgrade()
    assert done.returncode != 0
    assert "webapp is not healthy" in done.text
    assert serving() == 15
    assert host.run("ls -d /etc/postgresql/17 /var/lib/postgresql/17/main").stdout == ""
    assert not host.file("/var/lib/slipway/maintenance/webapp.html").exists
    host.check_output("sleep 3")
    writer.stop()
    assert writer.names <= names()
    assert len(writer.refused) > 3


def test_an_upgrade_that_is_killed_takes_itself_back(host, names, serving):
    before = names()
    recover = "ExecStopPost=-/usr/local/sbin/slipway-backup recover-upgrade"
    assert recover in (PROJECT / "roles/backup/tasks/upgrade.yml").read_text()
    bring_to(host, "copying", recover)
    kill(host)
    assert serving() == 15
    assert names() == before
    assert not host.file("/var/lib/slipway/maintenance/webapp.html").exists
    assert json.loads(host.check_output(f"cat {JOURNAL}"))["result"] == "taken back"


def test_what_is_written_while_the_copy_is_looked_at_is_not_lost(host, sql, names, serving):
    """As site.yml does, somebody starts the old cluster, while the upgrade stands still."""
    bring_to(host, "copying")
    host.check_output("timeout 300 sh -c 'until ls /run/slipway-upgrade/.s.*; do sleep 0.02; done'")
    host.check_output("systemctl kill --signal=STOP slipway-upgrade")
    host.check_output("systemctl start postgresql@15-main")
    sql("INSERT INTO users (name) VALUES ('meanwhile')")
    host.check_output("systemctl kill --signal=CONT slipway-upgrade")
    gone = "while systemctl is-active slipway-upgrade; do sleep 1; done"
    host.check_output("timeout 300 sh -c %s", gone)
    said = host.check_output("journalctl --unit slipway-upgrade --output=cat --lines=50")
    assert "PostgreSQL was started while its cluster was copied" in said
    assert serving() == 15
    assert "meanwhile" in names()
    assert json.loads(host.check_output(f"cat {JOURNAL}"))["result"] == "taken back"


def test_the_database_is_upgraded_and_no_row_is_lost(host, upgrade, writer, names, sql, serving):
    buffers, backups = sql("SHOW shared_buffers"), backups_of(host, "15")
    done = upgrade()
    assert done.returncode == 0, done.text
    assert backups < backups_of(host, "15")
    host.check_output("sleep 3")
    writer.stop()
    seconds = float(re.search(r"Interrupted for ([\d.]+) s", done.text)[1])
    print(f"interrupted for {seconds} s; between two rows: {writer.longest_gap:.1f} s")
    assert serving() == 17
    assert writer.names <= names()
    assert seconds < 120
    assert writer.longest_gap < seconds + 5
    # The application's own, and then the page that visitors see meanwhile.
    assert {answer.partition(":")[0] for answer in writer.refused} == {"HTTP Error 503"}
    assert sql("SHOW shared_buffers") == buffers
    assert sql("SHOW data_checksums") == "on"
    assert sql("SHOW shared_preload_libraries") == "pg_stat_statements"


def test_statistics_and_order_are_those_of_the_new_system(host, sql):
    assert int(sql("SELECT count(*) FROM pg_stats WHERE tablename = 'users'")) >= 2
    assert sql("SELECT datcollate FROM pg_database WHERE datname = 'webapp'") == "en_US.UTF-8"
    stale = "datcollversion <> pg_database_collation_actual_version(oid)"
    assert sql(f"SELECT count(*) FROM pg_database WHERE {stale}") == "0"
    outdated = "installed_version <> default_version"
    assert sql(f"SELECT count(*) FROM pg_available_extensions WHERE {outdated}") == "0"
    check = "/usr/lib/postgresql/17/bin/pg_amcheck --all --install-missing --heapallindexed"
    assert host.run(f"runuser -u postgres -- {check}").rc == 0


def test_a_backup_of_the_new_cluster_is_made_and_can_be_restored(host):
    by_hand(host, "while systemctl is-active -q slipway-backup; do sleep 1; done")
    by_hand(host, "systemctl start slipway-drill")
    host.run("systemctl start slipway-backup-check")
    status = json.loads(host.check_output("slipway-backup status"))
    assert status["state"] == "warn", status["lines"]
    assert "15/main" in status["lines"]["replaced"]["said"]
    assert status["drill"]["result"] == "ok"


def test_a_second_upgrade_finds_nothing_to_do(host, upgrade):
    pid = pid_of(host, 17)
    done = upgrade(yes=False)
    assert done.returncode == 0, done.text
    assert "Nothing to do: PostgreSQL 17 serves." in done.text
    assert changed(done.text) == 0
    assert pid_of(host, 17) == pid


def test_site_yml_goes_on_from_there_and_is_silent_the_second_time(host, playbook, serving):
    pid = pid_of(host, 17)
    done = playbook()
    assert done.returncode == 0, done.stdout
    assert pid_of(host, 17) == pid
    done = playbook()
    assert done.returncode == 0, done.stdout
    assert changed(done.stdout) == 0
    assert serving() == 17


def test_the_way_back_tells_what_it_loses(host, upgrade, names, site, serving):
    before = names()
    site.ask("/users", {"name": "written-since"})
    done = upgrade("--revert", yes=False)
    assert done.returncode != 0
    assert "LOST: all that was written" in done.text
    assert serving() == 17
    done = upgrade("--revert")
    assert done.returncode == 0, done.text
    assert "webapp users +" in done.text
    assert serving() == 15
    assert names() < before
    assert "written-since" not in names()
    by_hand(host, "while systemctl is-active -q slipway-backup; do sleep 1; done")
    host.run("systemctl start slipway-backup-check")
    status = json.loads(host.check_output("slipway-backup status"))
    assert status["state"] == "warn", status["lines"]
    assert "17/main" in status["lines"]["replaced"]["said"]


def test_what_was_kept_aside_is_not_overwritten(host, upgrade):
    done = upgrade()
    assert done.returncode != 0
    assert "17/main already, and it holds something" in " ".join(done.text.split())
    assert "removed the cluster 17/main" in host.check_output("slipway-backup remove-replaced")


def test_after_a_power_cut_the_old_cluster_starts(host, names, sql):
    before = names()
    bring_to(host, "copying")
    machine("kill")
    machine("start")
    by_hand(host, "until pg_isready; do sleep 0.2; done", 60)
    assert sql("SHOW server_version_num").startswith("15")
    assert names() == before


def test_a_run_that_was_killed_at_the_switch_is_ended_by_the_next(host, upgrade, names, serving):
    before = names()
    bring_to(host, "switching")
    kill(host)
    host.run("systemctl start slipway-backup-check")
    assert "interrupted" in host.check_output("slipway-backup status")
    done = upgrade()
    assert done.returncode == 0, done.text
    assert serving() == 17
    assert names() == before
    assert not host.file("/var/lib/slipway/maintenance/webapp.html").exists


def test_a_release_whose_interpreter_is_gone_is_made_anew(host, run_ops, site):
    """Somebody has removed the old Python, and rebooted, before a deploy."""
    by_hand(
        host,
        """cd /srv/webapp/current
        sed -i 's/Python 3[.]13[.][0-9]*/Python 3.11.2/' release.json
        ln -sfn /usr/bin/python3.11-gone venv/bin/python
        systemctl restart --no-block webapp.target; sleep 8""",
    )
    assert site.ask("/health/ready").status == 502
    done = run_ops("deploy")
    assert done.returncode == 0, done.stdout
    assert site.ask("/health/ready").status == 200


def test_what_is_left_of_the_old_system_can_go(host, site, run_ops, serving):
    by_hand(host, "while systemctl is-active -q slipway-backup; do sleep 1; done")
    by_hand(host, steps_of_the_page("What is left"))
    assert host.run("ls -d /var/lib/postgresql/15/main").rc != 0
    assert host.run("dpkg -l postgresql-15 python3.11-minimal | grep ^ii").stdout == ""
    machine("stop")
    machine("start")
    by_hand(host, "until systemctl is-active webapp.target; do sleep 1; done; sleep 3", 60)
    assert serving() == 17
    done = run_ops("doctor")
    assert "version 17." in done.stdout
