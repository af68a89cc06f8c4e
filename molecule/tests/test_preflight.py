"""What cannot work is refused before anything is changed, all at once, and says how to mend it."""

import json
import re
import time

import pytest
from runs import REFUSES, changed, last_task

testinfra_hosts = ["ansible://application"]


def changed_files(host) -> str:
    """List what was changed on the host since the stamp."""
    return host.check_output(
        "find /etc /srv /usr/local /var/lib/dpkg -newer /run/stamp"
        " ! -path '*/.ansible*' ! -path '/srv/backups/*'"  # of the log, each minute
    )


@pytest.fixture
def refused(host, playbook):
    """Return a function that runs site.yml with bad input and returns what it was told."""

    def run(*variables: str, options: tuple[str, ...] = ()) -> str:
        host.check_output("touch /run/stamp")
        arguments = [argument for value in variables for argument in ("--extra-vars", value)]
        done = playbook(*options, *arguments)
        assert done.returncode != 0
        assert last_task(done.stdout).startswith(REFUSES)
        assert changed(done.stdout) == 0
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
        "gunicorn_workers is 'many'.",
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


def test_a_release_that_the_tests_do_not_cover_is_accepted_and_said(host, playbook, knob):
    (release, *_) = knob("preflight_untested_releases", ["jammy", "noble"])
    done = playbook("--tags", "preflight", "--extra-vars", f"preflight_release={release}")
    assert done.returncode == 0, done.stdout
    assert "accepted, but not tested here" in done.stdout
    tested = ", ".join(knob("preflight_supported_releases", ["bookworm", "trixie"]))
    assert f"Tested: {tested}." in done.stdout


def test_a_host_without_python_is_told_what_to_install(playbook):
    done = playbook("--extra-vars", "ansible_python_interpreter=/usr/bin/python3.0")
    assert done.returncode != 0
    assert "has no /usr/bin/python3.0; nothing was changed." in done.stdout
    assert "apt-get install python3" in done.stdout
    assert changed(done.stdout) == 0


def test_wrong_facts_of_the_deployment_are_told_by_their_names(refused):
    facts = {
        "site_app_name": ["shop"],
        "site_app_static": "static; deny all",
        "site_app_packages": "libmagic1",
        "site_app_writable_directories": "/srv/uploads",
        "site_database_url": ["postgresql:///shop"],
        "site_domains": "shop.example.org",
        "site_backup": "false",
        "site_monitoring": "false",
    }
    said = refused(json.dumps(facts))
    for name in facts:
        assert f"{name} is " in said
    assert set(re.findall(r"Fix: set (\w+) in your inventory", said)) == set(facts)
    assert "site_domains is ['a.org; }']." in refused('{"site_domains": ["a.org; }"]}')


def test_what_a_role_would_take_apart_is_refused(refused):
    """Ansible takes a text for a list, and two lines of a unit are two settings."""
    said = refused(
        json.dumps(
            {
                "gunicorn_allowed_addresses": "203.0.113.5",
                "flask_app_environment": "A=1",
                "preflight_supported_releases": "trixie",
                "preflight_untested_releases": 7,
                "gunicorn_service_settings": {"MemoryMax": "1G\nUser=root"},
            }
        )
    )
    assert "gunicorn_allowed_addresses is '203.0.113.5'." in said
    assert "flask_app_environment is 'A=1'." in said
    assert "preflight_supported_releases is 'trixie'." in said
    assert "preflight_untested_releases is 7." in said
    assert "MemoryMax of gunicorn_service_settings has" in said


@pytest.fixture
def new_mirror(host):
    """Name an apt source that nobody listens on, and of which nothing was ever fetched."""
    source = "/etc/apt/sources.list.d/new.list"
    host.check_output("echo 'deb http://127.0.0.1:9/debian stable main' > %s", source)
    yield
    host.check_output("rm %s", source)


@pytest.mark.usefixtures("new_mirror")
def test_an_apt_source_that_was_never_fetched_must_be_reachable_too(refused):
    assert "cannot reach 127.0.0.1" in refused("site_http_proxy=")  # else that is asked instead


def test_a_backup_that_nobody_could_restore_is_refused(refused):
    assert "has no repository for its backup" in refused('{"backup_local": false}')
    s3 = '"endpoint": "s3.invalid", "bucket": "b", "region": "r", "access_id": "i"'
    said = refused(f'{{"backup_s3": {{{s3}}}}}')
    assert "has a repository in S3 that lacks access_secret" in said
    said = refused(f'{{"backup_passphrase": "", "backup_s3": {{{s3}, "access_secret": "s"}}}}')
    assert "would lose the passphrase" in said
    said = refused('{"backup_ssh": {"host": "192.0.2.1", "user": "copy"}}')
    assert "has a copy of its repository that lacks host_key" in said


def test_alerts_that_could_not_be_told_are_refused(refused):
    said = refused('{"monitoring_mail": {"to": "ann@slipway.invalid", "user": "ann"}}')
    assert re.search(r"monitoring_mail lacks\s+from, server, password", said)
    said = refused("monitoring_window_seconds=60", "monitoring_scrape_seconds=30")
    assert re.search(r"monitoring_window_seconds is 60, in which there\s+are too few looks", said)


def test_connections_and_memory_beyond_the_budget_are_refused(refused, knob):
    said = refused(
        "gunicorn_workers=40",
        "postgresql_max_connections=100",
        "preflight_ram_mib=1000",
        "postgresql_shared_buffers_mib=2000",
    )
    assert re.search(r"may open \d+ connections", said)
    assert f"and {knob('preflight_reserved_connections', 11)} are kept for people" in said
    assert f"MiB of memory: system {knob('preflight_system_memory_mib', 150)}, database" in said
    assert f"monitoring {knob('preflight_monitoring_memory_mib', 150)}," in said
    assert said.count("Fix:") >= 2


def test_what_two_applications_of_a_machine_both_claim_is_told_by_one(
    host, refused, neighbour, app
):
    both = f"{host.backend.host},neighbour,localhost"
    said = refused(
        "gunicorn_bind=0.0.0.0:5056",
        '{"site_domains": ["two.example.org"]}',
        options=(*neighbour("application", site_app_name=app), "--limit", both),
    )
    for claim in (
        f"site_app_name {app}",
        "site_domains two.example.org",
        "gunicorn_bind port 5056",
    ):
        assert f"{claim} is taken twice on one machine, by {host.backend.host} and" in said
    assert re.findall(r"^fatal: \[(.+)\]", said, re.MULTILINE) == [host.backend.host]


def test_the_budget_counts_every_application_of_the_machine(refused, neighbour, app):
    blog = {
        "site_app_name": "blog",
        "site_domains": ["blog.example.org"],
        "gunicorn_workers": 20,
        "gunicorn_pool_size": 2,
        "gunicorn_pool_overflow": 0,
        "gunicorn_generations": 2,
        "preflight_worker_memory_mib": 48,
    }
    said = refused("preflight_ram_mib=1000", options=neighbour("application", **blog))
    assert re.search(rf"^ *{app} .+ x \d x \(\d \+ \d\) = \d+$", said, re.MULTILINE)
    assert "blog 20 x 2 x (2 + 0) = 80" in said
    assert re.search(rf"^ *{app} .+ x \d x \d+ = \d+$", said, re.MULTILINE)
    assert "blog 20 x 2 x 48 = 1920" in said


def test_an_application_without_a_database_needs_no_connections(playbook, neighbour):
    blog = {
        "site_app_name": "blog",
        "site_domains": ["blog.example.org"],
        "site_database_url": "",
        "gunicorn_workers": 100,
        "preflight_worker_memory_mib": 8,
    }
    done = playbook(
        *neighbour("application", **blog),
        "--extra-vars=preflight_ram_mib=100000",
        "--tags=preflight",
    )
    assert done.returncode == 0
    assert changed(done.stdout) == 0


def test_a_wrong_input_of_an_entry_that_limit_omits_is_told(refused, neighbour):
    blog = {"site_app_name": "blog", "site_domains": ["blog.example.org"]}
    said = refused(options=neighbour("application", **blog, gunicorn_workers=0))
    assert "neighbour: gunicorn_workers is 0." in said


def test_a_machine_gets_its_database_and_its_proxy_once(refused, neighbour):
    blog = {"site_app_name": "blog", "site_domains": ["blog.example.org"]}
    said = refused(options=neighbour("application", "database", "proxy", **blog))
    assert "would get\n        postgresql and nginx more than once" in said


def test_an_application_cannot_begin_under_limit(refused, neighbour):
    new = {"site_app_name": "newcomer", "site_domains": ["new.example.org"], "gunicorn_workers": 1}
    said = refused(options=(*neighbour("application", **new), "--limit", "neighbour"))
    assert "neighbour was never on its machine" in said
    assert "Fix: run once without --limit." in said


def test_a_dry_run_of_a_converged_host_is_silent(host, playbook):
    host.check_output("touch /run/stamp")
    done = playbook("--check", "--diff")
    assert done.returncode == 0
    assert changed(done.stdout) == 0
    assert changed_files(host) == ""


def test_a_dry_run_tells_what_a_knob_would_change(host, playbook):
    host.check_output("touch /run/stamp")
    done = playbook("--check", "--diff", "--extra-vars", "gunicorn_timeout_seconds=77")
    assert done.returncode == 0
    assert "+timeout = 77" in done.stdout
    assert changed_files(host) == ""
