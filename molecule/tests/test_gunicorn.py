"""Gunicorn serves the application with as many workers as the role promised."""

import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

testinfra_hosts = ["ansible://application"]

WORKERS_OF_CORES = {1: 3, 2: 5, 4: 9}


def seen_within(seconds: float, site, path: str, status: int) -> bool:
    """Ask until the status is seen, at most some seconds."""
    deadline = time.monotonic() + seconds
    while site.ask(path).status != status:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_live_workers_match_the_promise(host, knob, workers):
    cores = int(host.check_output("nproc --all"))
    promised = knob("gunicorn_workers", WORKERS_OF_CORES.get(cores, 2 * cores + 1))
    assert len(workers) == promised


def test_processes_run_as_the_application(app, workers, host, master_pid):
    assert {worker.user for worker in workers} == {app}
    assert host.process.get(pid=master_pid).user == app


def test_only_the_current_release_runs(host, app, release):
    running = host.check_output("systemctl list-units --plain --no-legend '%s@*'", app)
    assert [line.split()[0] for line in running.splitlines()] == [f"{app}@{release}.service"]


def test_workers_run_inside_the_release(host, app, release, workers):
    folder = f"/srv/{app}/releases/{release}"
    for worker in workers:
        where = host.check_output("runuser -u %s readlink /proc/%s/cwd", app, str(worker.pid))
        assert where == f"{folder}/source"
        command = host.check_output("tr '\\0' ' ' < /proc/%s/cmdline", str(worker.pid))
        assert command.startswith(f"{folder}/venv/bin/python -m gunicorn")


def test_workers_are_threaded_and_never_sync(gunicorn_settings):
    assert "EvenWorker" in gunicorn_settings["worker_class"]
    assert gunicorn_settings["preload_app"] is True


def test_the_running_settings_are_the_promised_ones(knob, gunicorn_settings):
    requests = knob("gunicorn_max_requests", 0)
    promised = {
        "threads": knob("gunicorn_threads", 2),
        "timeout": knob("gunicorn_timeout_seconds", 60),
        "graceful_timeout": knob("gunicorn_graceful_timeout_seconds", 30),
        "keepalive": knob("gunicorn_keepalive_seconds", 75),
        "max_requests": requests,
        "max_requests_jitter": knob("gunicorn_max_requests_jitter", requests // 10),
    }
    assert {name: gunicorn_settings[name] for name in promised} == promised


def test_a_request_may_calculate_as_long_as_promised(host, app, knob):
    """What comes of one that goes on longer is seen in molecule/faults/tests/test_processes.py."""
    seconds = knob("gunicorn_request_cpu_seconds", knob("gunicorn_timeout_seconds", 60))
    assert host.file(f"/srv/{app}/current/gunicorn.conf.py").contains(f"if used > {seconds}:$")


def test_heartbeats_are_written_where_promised(host, app, knob, workers):
    folder = knob("gunicorn_worker_tmp_dir", "/dev/shm")  # noqa: S108 (what the role promises)
    files = host.check_output("runuser -u %s ls -- -l /proc/%s/fd", app, str(workers[0].pid))
    assert f"-> {folder}/wgunicorn-" in files or f"-> {folder}/#" in files


def test_the_pool_is_as_large_as_the_threads(knob, host, sql, site, workers):
    """All threads of all workers busy at once: so many connections, and never more."""
    size = knob("gunicorn_pool_size", knob("gunicorn_threads", 2))
    most = len(workers) * (size + knob("gunicorn_pool_overflow", 0))
    with ThreadPoolExecutor(4 * most) as clients:
        seen = list(clients.map(lambda _: site.ask("/users").status, range(20 * most)))
    assert set(seen) == {200}
    open_connections = (
        int(
            sql(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = "
                "'client backend' AND datname = current_database()"
            )
        )
        - 1
    )
    assert len(workers) <= open_connections <= most


def test_sockets_admit_only_the_application_and_nginx(host, app, release, knob):
    folder = host.file(f"/run/{app}")
    assert (folder.user, folder.group, folder.mode) == (app, "www-data", 0o750)
    socket = host.check_output("readlink /srv/%s/current/gunicorn.sock", app)
    name = "shared" if knob("gunicorn_generations", 2) == 1 else release
    assert socket == f"/run/{app}/{name}.sock"
    assert host.socket(f"unix://{socket}").is_listening
    control = host.file(f"/run/{app}/{release}/control.sock")
    assert (control.user, control.mode) == (app, 0o600)
    assert host.file(f"/run/{app}/{release}").mode == 0o700


def test_the_journal_tells_of_no_refused_write(host, app, release):
    said = host.check_output("journalctl --no-pager --output cat --unit %s@%s", app, release)
    assert "Booting worker" in said
    assert not re.search("Read-only file system|Permission denied|Traceback", said)


def test_the_journal_holds_what_the_log_level_lets_through(host, app, release, knob):
    said = host.check_output("journalctl --no-pager --output cat --unit %s@%s", app, release)
    assert "[INFO]" in said
    assert ("[DEBUG]" in said) == (knob("gunicorn_log_level", "info") == "debug")


def test_systemd_waits_longer_than_gunicorn(host, app, release, knob):
    graceful = knob("gunicorn_graceful_timeout_seconds", 30)
    seen = host.service(f"{app}@{release}").systemd_properties["TimeoutStopUSec"]
    minutes = re.fullmatch(r"(?:(\d+)min ?)?(?:(\d+)s)?", seen)
    seconds = int(minutes[1] or 0) * 60 + int(minutes[2] or 0)
    assert seconds == knob("gunicorn_stop_timeout_seconds", graceful + 10) > graceful


def test_memory_is_bounded(host, app, release, knob, workers):
    promised = knob("gunicorn_memory_max_mib", 128 * (len(workers) + 1))
    properties = host.service(f"{app}@{release}").systemd_properties
    assert int(properties["MemoryMax"]) == promised * 2**20
    assert int(properties["MemorySwapMax"]) == promised // 4 * 2**20
    assert properties["OOMPolicy"] == "continue"


def test_the_unit_is_locked_down(host, app, release, knob):
    unit, copy = f"{app}@{release}.service", "/run/as-on-a-machine.service"
    # A container cannot give the application a user namespace of its own: 0.2 more.
    host.check_output(f"(systemctl cat {unit}; echo '[Service]'; echo PrivateUsers=yes) >{copy}")

    def exposure(arguments: str) -> float:
        analyze = f"systemd-analyze security --no-pager {arguments} | tail --lines=1"
        return float(host.check_output(analyze).split()[6])

    # Two more places may be called in the scenario `override`.
    more = 0.2 if knob("gunicorn_bind", "") else 0
    in_container = host.run("systemd-detect-virt --container").rc == 0
    assert exposure(f"--offline=true {copy}") <= 1.0 + more
    assert exposure(unit) <= 1.0 + more + (0.2 if in_container else 0)


def test_a_crash_of_a_worker_leaves_nothing_of_its_memory(host, workers):
    for worker in workers:
        limits = host.file(f"/proc/{worker.pid}/limits").content_string
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def test_processes_of_the_application_are_bounded(host, app, release, knob, workers):
    promised = knob("gunicorn_tasks_max", (len(workers) + 1) * (knob("gunicorn_threads", 2) + 16))
    assert int(host.service(f"{app}@{release}").systemd_properties["TasksMax"]) == promised


def test_the_sandbox_is_the_promised_one_for_whatever_runs_as_the_application(
    host, app, release, knob
):
    commands = [name for name, it in knob("flask_app_commands", {}).items() if "schedule" not in it]
    units = [f"{app}@{release}", *(f"{app}-{name}@{release}" for name in commands)]
    allowed = knob("gunicorn_allowed_addresses", ["localhost"])
    forbids_jit = knob("gunicorn_service_settings", {}).get("MemoryDenyWriteExecute", "yes")
    for unit in units:
        properties = host.service(unit).systemd_properties
        assert properties["ProtectSystem"] == "strict"
        assert set(properties["IPAddressDeny"].split()) == {"0.0.0.0/0", "::/0"}
        assert len(properties["IPAddressAllow"].split()) == sum(
            2 if name == "localhost" else 1 for name in allowed
        )
        assert properties["MemoryDenyWriteExecute"] == forbids_jit
        for directory in knob("site_app_writable_directories", []):
            assert directory in properties["ReadWritePaths"].split()


def test_the_application_may_call_localhost_only(host, app, knob):
    connect = "import socket; socket.create_connection(('%s', 22), timeout=3)"
    sandboxed = f"systemd-run --quiet --collect --pipe --wait --unit={app}-probe --uid={app}"
    own = host.check_output("hostname --all-ip-addresses").split()[0]
    assert host.run(f"{sandboxed} python3 -c %s", connect % "127.0.0.1").rc == 0
    done = host.run(f"{sandboxed} python3 -c %s", connect % own)
    assert (done.rc == 0) == ("10.127.0.0/16" in knob("gunicorn_allowed_addresses", []))


def test_exactly_the_current_release_starts_at_boot(host, app, release, knob):
    wanted = host.check_output("ls /etc/systemd/system/%s.target.wants", app).splitlines()
    commands = [name for name, it in knob("flask_app_commands", {}).items() if "schedule" not in it]
    promised = [
        f"{app}@{release}.service",
        *(f"{app}-{name}@{release}.service" for name in commands),
    ]
    promised += [f"{app}.socket"] if knob("gunicorn_generations", 2) == 1 else []
    assert sorted(wanted) == sorted(promised)
    assert host.service(f"{app}.target").is_enabled


def test_the_target_stops_and_starts_the_application(host, app, site):
    host.check_output("systemctl stop %s.target", app)
    try:
        assert seen_within(10, site, "/health/live", 502)
    finally:
        host.check_output("systemctl start %s.target", app)
    assert seen_within(10, site, "/health/ready", 200)


def test_a_killed_master_comes_back(host, app, release, site, master_pid):
    host.check_output("kill -KILL %s", str(master_pid))
    deadline = time.monotonic() + 10
    question = "systemctl show --property MainPID --value %s@%s"
    while int(host.check_output(question, app, release)) in (0, master_pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert seen_within(10, site, "/health/ready", 200)


def test_a_restart_of_postgresql_is_survived(host, site, workers):
    before = {worker.pid for worker in workers}
    for _ in range(2 * len(before)):
        assert site.ask("/users").status == 200
    host.check_output("systemctl restart postgresql")
    assert seen_within(10, site, "/health/ready", 200)
    assert {site.ask("/users").status for _ in range(4 * len(before))} == {200}
    assert {worker.pid for worker in host.process.filter(ppid=workers[0].ppid)} == before


def test_tcp_is_open_only_where_it_was_asked_for(host, variables, knob):
    bind = knob("gunicorn_bind", "")
    ports = {"5432", "22", "80", "53", *([bind.rpartition(":")[2]] if bind else [])}
    if knob("site_monitoring", True):
        ports |= {"9090", "9093", "9100", "9112", "9113", "9187"}  # on loopback: test_monitoring.py
    listening = host.check_output("ss --listening --tcp --numeric --no-header")
    seen = {line.split()[3].rpartition(":")[2] for line in listening.splitlines()}
    assert seen <= ports
    if bind:  # and then from elsewhere, past the firewall and without nginx
        address = variables["ansible_host"].replace("127.0.", "10.127.")
        url = f"http://{address}:{bind.rpartition(':')[2]}/health/ready"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
            assert "nginx" not in answer.headers["Server"]
