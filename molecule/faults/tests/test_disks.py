"""A disk is full: what can go on does, nothing acknowledged is lost, and space is all it needs."""

import contextlib
import time
from collections.abc import Iterator

import pytest
from faults import Run, new_source

testinfra_hosts = ["ansible://application"]

DATA = "/var/lib/postgresql"
WAL, ELSEWHERE = f"{DATA}/15/main/pg_wal", "/mnt/wal"
STOP, START = "systemctl stop postgresql@15-main", "systemctl start postgresql@15-main"
PSQL = "cd / && runuser -u postgres -- psql --dbname=webapp -qAtX --command"
MUCH = "INSERT INTO users (name) SELECT repeat('x', 80) FROM generate_series(1, 100000)"
SEGMENT = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)), pg_switch_wal()"
SAID = "tail --lines=200 /var/log/postgresql/postgresql-15-main.log"
FULL = "No space left on device"


@contextlib.contextmanager
def full(server, folder: str) -> Iterator[None]:
    """Take all the space there is, to the last byte, and give it back at the end."""
    server.run(f"cat /dev/zero > {folder}/filling; cat /dev/zero > {folder}/rest")
    try:
        assert server.must(f"df --output=avail {folder} | tail --lines=1") == "0"
        yield
    finally:
        server.must(f"rm -f {folder}/filling {folder}/rest")


@pytest.fixture
def wal(server):
    """Give PostgreSQL's log a disk of its own, so that one can be full without the other."""
    server.must(
        f"mkdir -p {ELSEWHERE} && mount -t tmpfs -o size=512m,mode=0700,uid=postgres,gid=postgres "
        f"wal {ELSEWHERE} && {STOP} && cp -a {WAL}/. {ELSEWHERE} && rm -r {WAL} && "
        f"ln -s {ELSEWHERE} {WAL} && {START}"
    )
    yield ELSEWHERE
    server.must(
        f"{STOP}; rm {WAL} && cp -a {ELSEWHERE} {WAL} && umount {ELSEWHERE} && {START}",
    )


def test_without_space_for_data_reading_goes_on(host, server, fault, wal):
    main = server.master()
    with fault("the disk of the data is full for 10 s") as seen:
        seen.begins()
        with full(server, DATA):
            assert FULL in server.run(f'{PSQL} "{MUCH}"').stderr
            time.sleep(10)
        seen.ends()
    server.sql("VACUUM users")
    assert {answer.path for answer in seen.failed} == {"/users"}  # POST; a list has parameters
    assert {answer.status for answer in seen.failed} == {503}
    assert seen.seconds < 5
    assert server.master() == main


def test_without_space_for_its_log_postgresql_waits_for_it(host, server, fault, wal):
    main = server.master()
    with fault("the disk of PostgreSQL's log (WAL) is full for 10 s") as seen:
        seen.begins()
        with full(server, wal):
            server.run(f'for i in $(seq 60); do {PSQL} "{SEGMENT}" || break; done')
            time.sleep(10)
            assert FULL in server.must(SAID)
        seen.ends()
    assert seen.failed
    assert {answer.status for answer in seen.failed} == {503}
    assert seen.seconds < 10  # it is started every 2 s
    assert server.master() == main


def test_without_space_for_logs_a_release_is_made_and_nobody_notices(host, server, fault):
    lines = "grep --count --fixed-strings /version /var/log/nginx/access.log"
    before = server.release()
    with fault("the disk of the logs is full, and a release is made") as seen:
        seen.begins()
        server.must("rm /var/log/slipway/webapp.log")  # as rotated: a line needs a new block
        with full(server, "/var/log"):
            new_source()
            output, code = Run("playbooks/deploy-application.yml").result()
            server.must("systemctl reload nginx")
            written = int(server.must(lines))
        seen.ends()
    assert code == 0, output
    assert server.release() > before
    log = "/var/log/slipway/webapp.log"
    assert server.must("cat /srv/webapp/release.lock") == ""
    assert server.must(f"journalctl --boot --grep='{log} was not written' --lines=1")
    assert int(server.must(lines)) > written  # they are written again
    assert seen.failed_beyond_a_reload() == []


def test_without_space_for_temporary_files_nobody_notices(host, server, fault, playbook):
    with fault("`/tmp` is full, and `site.yml` run") as seen:
        seen.begins()
        with full(server, "/tmp"):  # noqa: S108 (the host's)
            done = playbook()
        seen.ends()
    assert done.returncode == 0, done.stdout
    assert seen.failed == []
