"""A disk is full: what can go on does, nothing acknowledged is lost, and space is all it takes."""

import time

import pytest

testinfra_hosts = ["ansible://application"]

WAL, ELSEWHERE = "/var/lib/postgresql/15/main/pg_wal", "/mnt/wal"
MUCH = "INSERT INTO users (name) SELECT repeat('x', 80) FROM generate_series(1, 100000)"


def fill(server, folder: str) -> None:
    """Take all the space there is, to the last byte."""
    server.run(f"cat /dev/zero > {folder}/filling; cat /dev/zero > {folder}/rest")
    free = server.must(f"df --output=avail {folder} | tail --lines=1")
    assert int(free) == 0


def free(server, folder: str) -> None:
    """Give the space back."""
    server.must(f"rm -f {folder}/filling {folder}/rest")


@pytest.fixture
def wal(server):
    """Give PostgreSQL's log a disk of its own, so that one can be full without the other."""
    move = f"cp -a {{}}/. {{}}/ && chown postgres: {ELSEWHERE} && chmod 700 {ELSEWHERE}"
    server.must(
        f"mkdir -p {ELSEWHERE} && mount -t tmpfs -o size=256m,mode=0700 wal {ELSEWHERE} && "
        f"systemctl stop postgresql && {move.format(WAL, ELSEWHERE)} && "
        f"rm -r {WAL} && ln -s {ELSEWHERE} {WAL} && systemctl start postgresql"
    )
    yield ELSEWHERE
    server.must(
        f"systemctl stop postgresql && rm {WAL} && mkdir {WAL} && {move.format(ELSEWHERE, WAL)} && "
        f"chown postgres: {WAL} && chmod 700 {WAL} && umount {ELSEWHERE} && "
        "systemctl start postgresql"
    )


def test_without_space_for_data_reading_goes_on(host, server, fault, wal):
    main = server.master()
    with fault("the disk of the data is full") as seen:
        seen.begins()
        fill(server, "/var/lib/postgresql")
        psql = f'cd / && runuser -u postgres -- psql --dbname=webapp -qAtX --command "{MUCH}"'
        assert "No space left on device" in server.run(psql).stderr
        time.sleep(10)
        free(server, "/var/lib/postgresql")
        seen.ends()
    server.sql("VACUUM users")
    written = {answer.path for answer in seen.failed}
    assert written == {"/users"}  # the POSTs; a list has parameters
    assert {answer.status for answer in seen.failed} == {503}
    assert seen.seconds < 5
    assert server.master() == main


def test_without_space_for_its_log_postgresql_waits_for_it(host, server, fault, wal):
    main = server.master()
    write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)), pg_switch_wal()"
    psql = f'cd / && runuser -u postgres -- psql --dbname=webapp -qAtX --command "{write}"'
    with fault("the disk of PostgreSQL's log (WAL) is full") as seen:
        seen.begins()
        fill(server, wal)
        server.run(f"for i in $(seq 40); do {psql} || break; done")
        time.sleep(10)
        assert "No space left on device" in server.must(
            "tail --lines=200 /var/log/postgresql/postgresql-15-main.log"
        )
        free(server, wal)
        seen.ends()
    assert {answer.status for answer in seen.failed} == {503}
    assert seen.seconds < 10  # it is started every 2 s
    assert server.master() == main


def test_without_space_for_logs_nobody_notices(host, server, fault):
    lines = "grep --count --fixed-strings /version /var/log/nginx/access.log"
    with fault("the disk of the logs is full") as seen:
        seen.begins()
        fill(server, "/var/log")
        time.sleep(5)
        before = int(server.must(lines))
        server.must("systemctl restart nginx")
        time.sleep(5)
        free(server, "/var/log")
        seen.ends()
    assert int(server.must(lines)) > before  # they are written again
    assert seen.seconds < 1


def test_without_space_for_temporary_files_nobody_notices(host, server, fault, playbook):
    with fault("`/tmp` is full, and `site.yml` run") as seen:
        seen.begins()
        fill(server, "/tmp")  # noqa: S108 (the host's)
        try:
            done = playbook()
        finally:
            free(server, "/tmp")  # noqa: S108
        seen.ends()
    assert done.returncode == 0, done.stdout
    assert seen.failed == []
