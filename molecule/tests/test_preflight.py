"""What cannot work is refused before anything is changed, all at once, and says how to mend it."""

import re
import time

import pytest

testinfra_hosts = ["ansible://application"]


def changed_files(host) -> str:
    """List what was changed on the host since the stamp."""
    return host.check_output(
        "find /etc /srv /usr/local /var/lib/dpkg -newer /run/stamp ! -path '*/.ansible*'"
    )


@pytest.fixture
def refused(host, playbook):
    """Return a function that runs site.yml with bad input and returns what it was told."""

    def run(*variables: str) -> str:
        host.check_output("touch /run/stamp")
        arguments = [argument for value in variables for argument in ("--extra-vars", value)]
        done = playbook(*arguments)
        assert done.returncode != 0
        assert "Traceback" not in done.stdout + done.stderr
        assert re.search(r"changed=0 .*failed=1", done.stdout)
        assert changed_files(host) == ""
        return done.stdout

    return run


@pytest.fixture
def squatter(host):
    """Occupy port 5055 and apt's lock with programs that are not ours."""
    lock = "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f, 2)"
    host.check_output("systemd-run --unit squatter python3 -m http.server 5055")
    host.check_output("systemd-run --unit locker python3 -c %s", f"{lock}; time.sleep(120)")
    time.sleep(1)
    yield
    host.check_output("systemctl stop squatter locker")


@pytest.mark.usefixtures("squatter")
def test_everything_wrong_is_told_at_once(refused):
    said = refused(
        "gunicorn_workers=many",
        "gunicorn_threads=1",
        "flask_app_psycopg2=guess",
        "postgresql_max_connections=5",
        "nginx_max_body_size_mib=0",
        "postgresql_version=14",
        "gunicorn_bind=0.0.0.0:5055",
        "preflight_apt_wait_seconds=0",
        "preflight_release=buster",
        "preflight_architecture_bits=32",
        "preflight_service_manager=sysvinit",
        "preflight_minimum_ram_mib=1000000",
        "preflight_minimum_disk_mib=1000000",
        "site_http_proxy=http://127.0.0.1:9",
        "site_app_name=postgres",
        "site_app_source=/nowhere",
        '{"site_domains": []}',
    )
    for told in (
        "'gunicorn_workers' is of type",
        "gunicorn_threads is 1.",
        "Allowed: 2 to 128.",
        "binary, source",
        "postgresql_max_connections is 5.",
        "nginx_max_body_size_mib is 0.",
        "a second, empty one is never made",
        "on port 5055",
        "apt is in use on",
        "python3.",
        "runs buster, which the tests do not cover",
        "32-bit",
        "sysvinit",
        "MiB of memory",
        "too little free disk",
        "cannot reach 127.0.0.1",
        "already has a user postgres",
        "There is no requirements.txt in",
        "has no name to answer to",
    ):
        assert told in said
    assert said.count("Fix:") >= 17


def test_connections_and_memory_beyond_the_budget_are_refused(refused):
    said = refused(
        "gunicorn_workers=40",
        "postgresql_max_connections=100",
        "preflight_ram_mib=1000",
        "postgresql_shared_buffers_mib=2000",
    )
    assert re.search(r"may open \d+ connections", said)
    assert "MiB of memory: system" in said
    assert said.count("Fix:") >= 2


def test_a_dry_run_of_a_converged_host_is_silent(host, playbook):
    host.check_output("touch /run/stamp")
    done = playbook("--check", "--diff")
    assert done.returncode == 0
    assert re.search(r"changed=0 +unreachable=0 +failed=0", done.stdout)
    assert changed_files(host) == ""


def test_a_dry_run_tells_what_a_knob_would_change(host, playbook):
    host.check_output("touch /run/stamp")
    done = playbook("--check", "--diff", "--extra-vars", "gunicorn_timeout_seconds=77")
    assert done.returncode == 0
    assert "+timeout = 77" in done.stdout
    assert changed_files(host) == ""
