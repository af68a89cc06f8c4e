"""The application runs from a release that it cannot change, with its own virtualenv."""

import json
import re

testinfra_hosts = ["ansible://application"]


def test_the_user_has_no_shell_and_no_password(host, app):
    user = host.user(app)
    assert user.shell == "/usr/sbin/nologin"
    assert user.uid < 1000
    assert user.password.startswith(("!", "*"))
    assert user.groups == [app]


def test_a_release_is_complete(host, app, release):
    folder = f"/srv/{app}/releases/{release}"
    manifest = json.loads(host.file(f"{folder}/release.json").content_string)
    assert manifest["release"] == release
    assert host.file(f"{folder}/venv/bin/gunicorn").exists
    assert host.file(f"{folder}/source/app.py").exists


def test_the_application_cannot_write_its_code(host, app):
    assert host.check_output("find /srv/%s ! -user root", app) == ""
    find = "runuser -u %s -- find /srv/%s -writable ! -type l 2>/dev/null"
    assert host.run(find, app, app).stdout == ""


def test_what_git_ignores_stayed_behind(host, app, release):
    source = f"/srv/{app}/releases/{release}/source"
    assert not host.file(f"{source}/instance").exists
    assert not host.file(f"{source}/.pytest_cache").exists


def test_the_environment_is_for_root_and_the_application(host, app, release):
    environment = host.file(f"/srv/{app}/releases/{release}/environment")
    assert (environment.user, environment.group, environment.mode) == ("root", app, 0o640)
    assert host.file(f"/etc/{app}/environment").mode == 0o640
    denied = "runuser -u nobody -- cat /etc/%s/environment /srv/%s/releases/%s/environment"
    assert host.run(denied, app, app, release).stdout == ""


def test_the_secret_key_was_born_here(host, app, release):
    secret = host.file(f"/etc/{app}/secret_key")
    assert (secret.user, secret.mode) == ("root", 0o600)
    assert len(secret.content_string) >= 64
    environment = host.file(f"/srv/{app}/releases/{release}/environment").content_string
    assert f'SECRET_KEY="{secret.content_string}"' in environment


def test_the_secret_key_outlives_releases(host, app):
    made = host.file(f"/etc/{app}/secret_key").mtime
    releases = host.check_output("ls /srv/%s/releases", app).splitlines()
    keys = {
        re.search(
            "SECRET_KEY=.*", host.file(f"/srv/{app}/releases/{name}/environment").content_string
        )[0]
        for name in releases
    }
    assert len(keys) == 1
    assert made <= host.file(f"/srv/{app}/releases/{releases[-1]}/release.json").mtime


def test_the_application_finds_its_environment(host, app, knob, workers):
    given = host.check_output("tr '\\0' '\\n' < /proc/%s/environ", str(workers[0].pid)).splitlines()
    environment = dict(line.split("=", 1) for line in given if "=" in line)
    assert environment["APP_ENV"] == "production"
    assert environment["DATABASE_URL"] == f"postgresql+psycopg2:///{app}?host=/run/postgresql"
    for name, value in knob("flask_app_environment", {}).items():
        assert environment[name] == str(value)


def test_releases_are_judged_by_the_promised_bounds(host, app, knob, workers):
    told = json.loads(host.file(f"/etc/{app}/operate.json").content_string)
    assert told == {
        "gate": {
            "path": knob("flask_app_health_path", "/health/ready"),
            "host": knob("site_domains", ["_"])[0],
            "highest_status": knob("flask_app_health_highest_status", 200),
            "seconds": knob("flask_app_health_timeout_seconds", 30),
            "warm_up_requests": knob("flask_app_warm_up_requests", 20),
        },
        "drain_seconds": knob("flask_app_drain_seconds", 1),
    }
    given = host.check_output("tr '\\0' '\\n' < /proc/%s/environ", str(workers[0].pid))
    assert f"TRUSTED_PROXIES={knob('flask_app_trusted_proxies', 1)}" in given.splitlines()


def test_the_virtualenv_is_what_the_lock_file_says(host, app, release):
    folder = f"/srv/{app}/releases/{release}"
    lock = host.file(f"{folder}/source/requirements.txt").content_string
    locked = dict(re.findall(r"^([\w-]+)==([\w.]+)", lock, re.MULTILINE))
    code = "from importlib.metadata import version as v; print(v('%s'))"
    for package in ("flask", "gunicorn", "psycopg2-binary", "sqlalchemy"):
        found = host.check_output(f"{folder}/venv/bin/python -c %s", code % package)
        assert found == locked[package]


def test_bytecode_was_compiled_before_the_first_start(host, app, release):
    venv = f"/srv/{app}/releases/{release}/venv"
    sources = int(host.check_output("find %s -name '*.py' -path '*/flask/*' | wc -l", venv))
    compiled = int(host.check_output("find %s -name '*.pyc' -path '*/flask/*' | wc -l", venv))
    assert 0 < sources <= compiled


def test_psycopg2_uses_the_libpq_that_was_chosen(host, knob, site, workers):
    for _ in workers:
        assert site.ask("/users").status == 200  # so that a worker has loaded the driver
    maps = host.check_output("cat /proc/%s/maps", str(workers[0].pid))
    libraries = {line.split()[-1] for line in maps.splitlines() if "/libpq" in line}
    assert len(libraries) == 1
    bundled = "psycopg2_binary.libs" in libraries.pop()
    assert bundled == (knob("flask_app_psycopg2", "binary") == "binary")


def test_the_schema_is_at_head(site, sql):
    assert site.ask("/health/ready").json == {"status": "ok"}
    assert re.fullmatch(r"[0-9a-f]+", sql("SELECT version_num FROM alembic_version"))


def test_a_user_posted_over_http_is_in_postgresql(site, sql):
    answer = site.ask("/users", {"name": "Nguyễn Thị Minh"})
    assert answer.status == 201
    number = answer.json["id"]
    assert sql(f"SELECT name FROM users WHERE id = {number}") == "Nguyễn Thị Minh"
    assert site.ask(f"/users/{number}").json["name"] == "Nguyễn Thị Minh"


def test_version_names_the_release_and_a_worker(host, site, release, workers):
    version = site.ask("/version").json
    assert version["release"] == release
    assert version["pid"] in [worker.pid for worker in workers]


def test_the_page_shows_users_and_the_release(site, release):
    page = site.ask("/")
    assert page.status == 200
    assert release in page.body.decode()


def test_bad_requests_are_refused_as_problem_details(site):
    for answer, status in [
        (site.ask("/users", {"name": ""}), 400),
        (site.ask("/users", {"name": "x" * 5000}), 400),
        (site.ask("/users/999999999"), 404),
        (site.ask("/users", {"name": "x"}, {"Content-Type": "text/plain"}), 415),
    ]:
        assert answer.status == status
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_old_releases_are_pruned_and_nothing_half_made_stays(host, app, knob):
    names = host.check_output("ls /srv/%s/releases", app).splitlines()
    assert 1 <= len(names) <= knob("flask_app_keep_releases", 5)
    for name in names:
        assert host.file(f"/srv/{app}/releases/{name}/release.json").exists


def test_state_belongs_to_the_application_alone(host, app, knob):
    for directory in (f"/var/lib/{app}", *knob("site_app_writable_directories", [])):
        state = host.file(directory)
        assert (state.user, state.group, state.mode) == (app, app, 0o750)


def test_commands_run_with_their_limits(host, app, release, knob):
    for name, command in knob("flask_app_commands", {}).items():
        if "schedule" in command:
            timer = host.service(f"{app}-{name}.timer").systemd_properties
            assert command["schedule"] in timer["TimersCalendar"]
            continue
        unit = host.service(f"{app}-{name}@{release}").systemd_properties
        assert (unit["ActiveState"], unit["User"]) == ("active", app)
        assert int(unit["MemoryMax"]) == knob("flask_app_command_memory_max_mib", 256) * 2**20
        assert unit["TimeoutStopUSec"] == f"{knob('flask_app_command_stop_timeout_seconds', 30)}s"


def test_extra_requirements_are_in_the_virtualenv(host, app, knob):
    for requirement in knob("flask_app_extra_requirements", []):
        name, _, wanted = requirement.partition("==")
        code = f"from importlib.metadata import version as v; print(v('{name}'))"
        assert host.check_output(f"/srv/{app}/current/venv/bin/python -c %s", code) == wanted
