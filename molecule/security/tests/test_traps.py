"""What an application that was broken into leaves behind, for those with more rights to step on."""

import json

import pytest

testinfra_hosts = ["ansible://application"]

STATE = "/var/lib/webapp"
# Whoever runs it with the rights for that, makes the application a superuser.
RISE = """CREATE FUNCTION public.rise() RETURNS text LANGUAGE plpgsql AS $$
BEGIN EXECUTE 'ALTER ROLE webapp SUPERUSER'; RETURN 'x';
EXCEPTION WHEN insufficient_privilege THEN RETURN 'x'; END $$;"""
TRAPS = {
    "a view in the place of a table": RISE
    + """ALTER TABLE alembic_version RENAME TO aside;
    CREATE VIEW alembic_version AS SELECT rise() AS version_num;""",
    "a function that fits better than PostgreSQL's own": RISE
    + """CREATE FUNCTION format(text, name, name) RETURNS text LANGUAGE sql
        AS $$ SELECT pg_catalog.left(rise(), 0) || pg_catalog.format($1, $2, $3) $$;""",
    "a type that is cast by a function": RISE
    + """ALTER TABLE alembic_version RENAME TO aside;
    CREATE TYPE trap AS ENUM ('x');
    CREATE FUNCTION shown(trap) RETURNS text LANGUAGE sql AS $$ SELECT rise() $$;
    CREATE CAST (trap AS text) WITH FUNCTION shown(trap) AS IMPLICIT;
    CREATE TABLE alembic_version (version_num trap); INSERT INTO alembic_version VALUES ('x');""",
    "a search path of the database": RISE
    + """CREATE FUNCTION to_regclass(text) RETURNS regclass LANGUAGE sql
        AS $$ SELECT rise(); SELECT pg_catalog.to_regclass($1) $$;
    ALTER DATABASE webapp SET search_path = public, pg_catalog;""",
}
CLEAR = """ALTER DATABASE webapp RESET search_path; SET search_path = pg_catalog, public;
DO $$ BEGIN
IF to_regclass('public.aside') IS NOT NULL THEN
    IF (SELECT relkind FROM pg_class WHERE oid = 'public.alembic_version'::regclass) = 'v'
    THEN DROP VIEW public.alembic_version; ELSE DROP TABLE public.alembic_version; END IF;
    ALTER TABLE public.aside RENAME TO alembic_version;
END IF; END $$;
DROP TYPE IF EXISTS public.trap CASCADE;
DROP FUNCTION IF EXISTS public.format(text, name, name), public.to_regclass(text),
    public.rise();
ALTER ROLE webapp NOSUPERUSER;"""

# A package whose build writes what it should not, and leaves something running.
PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "trap"
version = "1"
""",
    "backend.py": """
import contextlib
import os
import zipfile

WHEEL = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
METADATA = "Metadata-Version: 2.1\\nName: trap\\nVersion: 1\\n"
FILES = {"METADATA": METADATA, "WHEEL": WHEEL, "RECORD": ""}


def build_wheel(folder, *_):
    with contextlib.suppress(OSError):
        open("/var/lib/webapp/built", "w").close()
    if os.fork() == 0:
        os.closerange(0, 256)
        os.setsid()
        os.execvp("sleep", ["sleep", "600"])
    with zipfile.ZipFile(os.path.join(folder, "trap-1-py3-none-any.whl"), "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(f"trap-1.dist-info/{name}", text)
    return "trap-1-py3-none-any.whl"
""",
}


@pytest.fixture
def as_application(host):
    """Return a function that runs a shell command as the application."""
    return lambda command: host.check_output("runuser -u webapp -- sh -c %s", command)


@pytest.fixture
def back_up(host):
    """Return a function that makes a backup."""
    return lambda: host.check_output("slipway-backup run")


@pytest.mark.parametrize("trap", TRAPS)
def test_a_backup_runs_nothing_of_an_application_as_superuser(host, back_up, sql, trap):
    psql = "psql --quiet --set=ON_ERROR_STOP=1 --dbname=webapp --command"
    try:
        host.check_output(f"cd /; runuser -u webapp -- {psql} %s", TRAPS[trap])
        back_up()
        assert sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'webapp'", "postgres") == "f"
    finally:
        host.check_output(f"cd /; runuser -u postgres -- {psql} %s", CLEAR)


def test_a_restore_follows_no_link_of_an_application(host, as_application, back_up):
    """Debian's shells run what is in profile.d, whoever it belongs to."""
    as_application(f"mkdir -p {STATE}/trap && echo 'touch /root/owned' > {STATE}/trap/trap.sh")
    as_application(f"chmod 0640 {STATE}/trap/trap.sh && ln -s trap.sh {STATE}/trap/link")
    back_up()
    as_application(f"rm -r {STATE}/trap && ln -s /etc/profile.d {STATE}/trap")
    try:
        host.check_output("slipway-backup restore --files --yes")
        assert not host.file("/etc/profile.d/trap.sh").exists
        restored = host.file(f"{STATE}/trap/trap.sh")
        assert restored.content_string == "touch /root/owned\n"
        assert (restored.user, restored.group, restored.mode) == ("webapp", "webapp", 0o640)
        assert host.file(f"{STATE}/trap/link").linked_to == f"{STATE}/trap/trap.sh"
    finally:
        host.check_output(f"rm -rf {STATE}/trap /etc/profile.d/trap.sh /etc/profile.d/link")
        host.check_output("systemctl start slipway-backup")  # a restore has begun one
        host.check_output("slipway-backup remove-replaced")


def test_a_drill_makes_nothing_in_a_folder_of_postgres(host):
    """Whoever owns a folder can exchange what root has just made there, before root looks again."""
    host.check_output("systemctl start --no-block slipway-drill")
    owners = host.check_output(
        "for n in $(seq 600); do stat --format=%U /var/lib/slipway/backup/drill 2>/dev/null"
        " && [ -e /var/lib/slipway/backup/drill/room/log ] && exit; sleep 0.1; done"
    )
    assert set(owners.split()) == {"root"}
    assert host.check_output(
        "systemctl start slipway-drill; systemctl show --property=Result --value slipway-drill"
    ) == "success"  # fmt: skip


def test_a_package_that_is_built_writes_nothing_else_and_leaves_nothing_running(host, playbook):
    host.check_output("mkdir -p /opt/trap")
    for name, text in PACKAGE.items():
        host.check_output("printf %%s %s > %s", text, f"/opt/trap/{name}")
    wanted = {"flask_app_extra_requirements": ["trap @ file:///opt/trap"]}
    try:
        done = playbook("--tags", "flask_app", "--extra-vars", json.dumps(wanted))
        assert done.returncode == 0, done.stdout
        assert host.run("ls -d /srv/webapp/current/venv/lib/python*/*/trap-1.dist-info").rc == 0
        assert not host.file("/var/lib/webapp/built").exists
        assert host.run("pgrep --uid webapp sleep").stdout == ""
    finally:
        host.run("pkill --uid webapp sleep")
        host.check_output("rm -rf /opt/trap /var/lib/webapp/built")
        assert playbook("--tags", "flask_app").returncode == 0
