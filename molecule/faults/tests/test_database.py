"""PostgreSQL goes away: the application says so quickly, and needs no restart when it is back."""

import time

testinfra_hosts = ["ansible://database"]

# As the application's user, as somebody's script would: take every connection there is, for 12 s.
TAKE_ALL = """
import psycopg2, time
taken, end = [], time.monotonic() + 12
while time.monotonic() < end:
    try:
        taken.append(psycopg2.connect("dbname=webapp host=/run/postgresql application_name=taker"))
    except psycopg2.OperationalError:
        time.sleep(0.01)
print(len(taken))
"""
BEGUN = "SELECT pg_postmaster_start_time()"


def test_a_restart_is_over_in_five_seconds(host, server, fault):
    main, workers, begun = server.master(), server.workers(), server.sql(BEGUN)
    with fault("PostgreSQL is restarted") as seen:
        seen.begins()
        server.must("systemctl restart postgresql")
    assert server.sql(BEGUN) != begun
    assert seen.seconds < 5
    assert {answer.status for answer in seen.failed} <= {503}
    assert (server.master(), server.workers()) == (main, workers)


def test_thirty_seconds_without_it_are_quick_refusals(host, server, fault, site):
    main, workers = server.master(), server.workers()
    with fault("PostgreSQL is stopped for 30 s") as seen:
        seen.begins()
        server.must("systemctl stop postgresql@15-main")
        stopped = time.monotonic()
        assert site.ask("/health/ready").status == 503
        assert site.ask("/health/live").status == 200
        time.sleep(max(0, stopped + 30 - time.monotonic()))
        assert site.ask("/health/ready").status == 503
        server.must("systemctl start postgresql@15-main")
        seen.ends()
    assert {answer.status for answer in seen.failed} == {503}
    assert max(answer.seconds for answer in seen.failed) < 2
    assert all(answer.path != "/version" for answer in seen.failed)  # it needs no database
    assert seen.seconds < 5
    assert (server.master(), server.workers()) == (main, workers)


def test_a_killed_server_recovers_and_has_all_that_it_acknowledged(host, server, fault):
    main, begun = server.master(), server.sql(BEGUN)
    with fault("PostgreSQL is killed (`kill -9`)") as seen:
        pid = server.must("head --lines=1 /var/lib/postgresql/15/main/postmaster.pid")
        seen.begins()
        server.must(f"kill -KILL {pid}")
    assert server.sql(BEGUN) != begun
    assert seen.seconds < 10
    assert {answer.status for answer in seen.failed} <= {503}
    assert server.master() == main


def test_no_connection_left_is_said_and_over_when_there_is_one(host, server, fault):
    server.must(f"cat > /run/take.py <<'END'\n{TAKE_ALL}END")
    take = "cd / && runuser -u webapp -- python3 /run/take.py > /run/taken 2>&1"
    with fault("PostgreSQL has no connection left for 10 s") as seen:
        seen.begins()
        server.must(f"nohup sh -c '{take}' >/dev/null 2>&1 &")
        for _ in range(10):  # the application's own connections, too
            time.sleep(0.2)
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'webapp' AND application_name <> 'taker'"
            )
        server.must("while pgrep --full [t]ake.py >/dev/null; do sleep 0.1; done")
        seen.ends()
    assert int(server.must("cat /run/taken")) > 50
    assert seen.failed
    assert {answer.status for answer in seen.failed} == {503}
    assert max(answer.seconds for answer in seen.failed) < 2
    assert seen.seconds < 5


def test_a_setting_that_needs_no_restart_gets_none(host, server, fault, playbook):
    begun, before = server.sql(BEGUN), server.sql("SHOW work_mem")
    with fault("a setting of PostgreSQL is changed by `site.yml --tags postgresql`") as seen:
        seen.begins()
        done = playbook("--tags", "postgresql", "--extra-vars", "postgresql_work_mem_mib=3")
        changed = server.sql("SHOW work_mem")
        back = playbook("--tags", "postgresql")
        seen.ends()
    assert (done.returncode, back.returncode) == (0, 0), done.stdout + back.stdout
    assert changed == "3MB" != before
    assert server.sql("SHOW work_mem") == before
    assert server.sql(BEGUN) == begun
    assert seen.failed == []
