"""PostgreSQL is sized for its host, reachable only from it, and needs no password."""

import time

import pytest

testinfra_hosts = ["ansible://database"]


@pytest.fixture
def memory_mib(host) -> int:
    """Return the memory of the host, in MiB, as Ansible rounds it."""
    return int(host.check_output("awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))


def in_mib(sql, setting: str) -> int:
    """Return a setting of the running server, in MiB."""
    return int(sql(f"SELECT pg_size_bytes(current_setting('{setting}')) / 1048576"))


def test_memory_settings_follow_the_host(sql, knob, memory_mib):
    quarter = memory_mib // 4
    assert in_mib(sql, "shared_buffers") == knob(
        "postgresql_shared_buffers_mib", min(quarter, 8192)
    )
    assert in_mib(sql, "effective_cache_size") == knob(
        "postgresql_effective_cache_size_mib", memory_mib // 2
    )
    connections = knob("postgresql_max_connections", 100)
    assert in_mib(sql, "work_mem") == knob(
        "postgresql_work_mem_mib", min(max(quarter // connections, 4), 64)
    )
    assert in_mib(sql, "max_wal_size") == knob(
        "postgresql_max_wal_size_mib", min(max(memory_mib, 1024), 4096)
    )


def test_each_of_its_processes_runs_as_postgres(host):
    assert set(host.check_output("ps -C postgres -o user=").split()) == {"postgres"}


def test_parallel_settings_follow_the_cores(host, sql, knob):
    cores = int(host.check_output("nproc --all"))
    assert int(sql("SHOW max_parallel_workers")) == knob("postgresql_max_parallel_workers", cores)
    assert int(sql("SHOW max_parallel_workers_per_gather")) == knob(
        "postgresql_max_parallel_workers_per_gather", cores // 2
    )


def test_disk_settings_suit_a_vps(sql, knob):
    assert int(sql("SHOW effective_io_concurrency")) == knob(
        "postgresql_effective_io_concurrency", 200
    )
    assert float(sql("SHOW random_page_cost")) == knob("postgresql_random_page_cost", 1.1)


def test_damaged_pages_are_noticed(sql):
    assert sql("SHOW data_checksums") == "on"


def test_slow_statements_are_logged_and_all_are_counted(sql, knob):
    wanted = knob("postgresql_slow_statement_milliseconds", 1000)
    query = "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'"
    assert int(sql(query)) == wanted
    assert int(sql("SELECT count(*) FROM pg_stat_statements", "postgres")) > 0


def test_connections_are_what_was_promised(sql, knob):
    assert int(sql("SHOW max_connections")) == knob("postgresql_max_connections", 100)


def test_no_setting_waits_for_a_restart(sql):
    assert sql("SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"


def test_tcp_is_for_this_host_only(host, knob):
    listening = host.check_output("ss --listening --tcp --numeric --no-header 'sport = :5432'")
    addresses = {line.split()[3].rsplit(":", 1)[0] for line in listening.splitlines()}
    allowed = {"127.0.0.1", "[::1]", *knob("postgresql_listen_addresses", [])}
    assert addresses
    assert addresses <= allowed


def test_the_application_needs_no_password(host, sql, app):
    identity = host.check_output(
        "runuser -u %s -- psql --dbname=%s -Atc 'SELECT current_user'", app, app
    )
    assert identity == app
    assert sql("SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL") == "0"


def test_nobody_else_gets_in_as_the_application(host, app):
    refused = host.run(
        "runuser -u nobody -- psql --username=%s --dbname=%s -c 'SELECT 1'", app, app
    )
    assert refused.rc != 0
    assert "Peer authentication failed" in refused.stderr


def test_the_application_is_no_superuser(sql, app):
    query = f"SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = '{app}'"
    assert sql(query) == "f|f|f"


def test_the_database_belongs_to_the_application(sql, app):
    query = "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database"
    assert sql(f"{query} WHERE datname = '{app}'") == f"{app}|UTF8"


def test_statements_of_the_application_end(host, app, knob):
    show = "runuser -u %s -- psql --dbname=%s -Atc 'SHOW %s'"
    seconds = knob("postgresql_statement_timeout_seconds", 30)
    assert host.check_output(show, app, app, "statement_timeout") == f"{seconds}s"
    idle = knob("postgresql_idle_in_transaction_timeout_seconds", 60)
    promised = {"60s": "1min"}.get(f"{idle}s", f"{idle}s")
    assert host.check_output(show, app, app, "idle_in_transaction_session_timeout") == promised


def test_programs_can_be_built_against_libpq(host):
    assert host.package("libpq-dev").is_installed
    assert host.run("pg_config --version").rc == 0


def test_there_is_one_cluster_and_it_starts_at_boot(host):
    clusters = host.check_output("pg_lsclusters --no-header").splitlines()
    assert len(clusters) == 1
    version, name, _, state = clusters[0].split()[:4]
    assert (name, state) == ("main", "online")
    assert host.service(f"postgresql@{version}-main").is_enabled


def test_an_application_comes_into_no_other_database(host, app):
    ask = "runuser -u %s -- psql --dbname=%s --command='SELECT 1'"
    assert host.run(ask, app, app).rc == 0
    assert "no pg_hba.conf entry" in host.run(ask, app, "template1").stderr


def test_a_killed_server_comes_back_and_the_application_with_it(host, site, master_pid):
    killed = host.check_output("head -1 /var/lib/postgresql/*/main/postmaster.pid")
    host.check_output("kill -9 %s", killed)
    for _ in range(40):
        time.sleep(0.5)
        if site.ask("/health/ready").status == 200:
            break
    assert host.check_output("head -1 /var/lib/postgresql/*/main/postmaster.pid") != killed
    assert site.ask("/health/ready").status == 200
    assert host.process.get(pid=master_pid).comm
