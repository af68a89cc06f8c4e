"""Whatever is wrong with a new release: the old one answers throughout, and nothing of it stays."""

import threading
import time

import pytest
from conftest import on_server, releases, running, wait_for_phase

testinfra_hosts = ["ansible://server"]
WRONG_HASH = "toolz==1.0.0 --hash=sha256:" + "0" * 64
LOCKED = "no-such-package-of-slipway==1.0 --hash=sha256:" + "0" * 64
MIGRATION = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade():
    op.execute("CREATE TABLE half (id integer)")
    raise RuntimeError("the second half is missing")
"""
# The second request of each worker takes longer than the gate waits for a sign of life.
SLOW_TO_WARM_UP = """
import itertools, time
requests = itertools.count(1)
app.before_request(lambda: time.sleep(6) if next(requests) == 2 else None)
"""
# What is spoilt: file, text that is added to it, and what the person who deploys must read.
SPOILT = {
    "import_error": ("app.py", "\nimport no_such_module\n", "No module named 'no_such_module'"),
    "syntax_error_in_lock_file": ("requirements.txt", "\n=== what is this\n", "requirements.txt"),
    "dependency_that_does_not_exist": ("requirements.txt", f"\n{LOCKED}\n", "no-such-package-of"),
    "hash_of_another_package": ("requirements.txt", f"\n{WRONG_HASH}\n", "ash mismatch"),
    "package_without_a_hash": ("requirements.txt", "\ntoolz==1.0.0\n", "toolz"),
    "health_says_500": (
        "app.py",
        "\napp.view_functions['health.ready'] = lambda: ('out of order', 500)\n",
        "said 500: out of order",
    ),
    "hang_at_start": ("app.py", "\ntime.sleep(600)\n", "is not healthy after 30 s"),
    "missing_environment_variable": ("app.py", "\nos.environ['MUST_BE_SET']\n", "MUST_BE_SET"),
    "worker_that_dies": (
        "app.py",
        "\nif os.environ.get('INVOCATION_ID') and 'gunicorn.arbiter' in sys.modules:\n"
        "    print('the last words')\n    os._exit(1)\n",
        "ended",
    ),
}


def leave_mib(free: int) -> None:
    """Fill the disk but for so much."""
    on_server(f"fallocate -l $(($(stat -f -c '%a*%S' /srv) - {free} * 1048576)) /srv/filling")


def fill_during_build() -> None:
    """Leave no room on the disk once a release is being built."""
    wait_for_phase("build")
    on_server("cat /dev/zero > /srv/filled")


@pytest.fixture
def untouched(host, current, load):
    """Expect that the same release serves, alone, and that nothing was left behind."""
    before, folders = current(), releases()
    answers = len(load.answers)
    yield before
    assert current() == before
    assert running() == [before]
    assert releases() == folders
    assert on_server("cat /srv/webapp/release.lock") == ""
    assert len(load.answers) > answers
    assert load.releases() == [before]


@pytest.mark.parametrize("name", SPOILT)
def test_a_broken_release_changes_nothing(host, name, spoilt, play, untouched):
    file, text, expected = SPOILT[name]
    spoilt.append(file, f"\nimport os, sys, time\n{text}" if file == "app.py" else text)
    began = time.monotonic()
    output = play(source=spoilt, fails=True)
    assert time.monotonic() - began < 60
    assert expected in output
    assert f"Serving: {untouched}" in output


def test_a_failed_migration_leaves_code_and_schema(host, spoilt, play, untouched, sql):
    (spoilt.path / "migrations/versions/0002_half.py").write_text(MIGRATION)
    output = play(source=spoilt, fails=True)
    assert "the second half is missing" in output
    assert "The schema is still at revision 0001." in output
    assert "Restore point: before-migration-" in output
    assert sql("SELECT version_num FROM alembic_version") == "0001"
    assert sql("SELECT to_regclass('half') IS NULL") == "t"


def test_a_migration_that_waits_for_a_lock_gives_up(host, spoilt, play, untouched, sql):
    (spoilt.path / "migrations/versions/0002_wait.py").write_text(
        MIGRATION.replace("CREATE TABLE half (id integer)", "ALTER TABLE users ADD COLUMN x int")
    )
    lock = "BEGIN; LOCK TABLE users IN ACCESS SHARE MODE; SELECT pg_sleep(600)"
    command = f"runuser -u postgres -- psql webapp --command '{lock}'"
    holder = threading.Thread(target=on_server, args=(command, 600))
    holder.start()
    try:
        assert "lock timeout" in play(source=spoilt, fails=True)
    finally:
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        holder.join()


def test_a_disk_that_cannot_hold_it_is_seen_before(host, good, play, untouched):
    good.change()
    leave_mib(50)
    try:
        output = play(fails=True)
    finally:
        on_server("rm /srv/filling")
    assert "Fix: free space" in output


def test_a_disk_that_fills_up_meanwhile(host, spoilt, play, untouched):
    spoilt.append("requirements.txt", "\n# another virtualenv\n")
    leave_mib(700)  # enough for a release, and soon filled
    fill = threading.Thread(target=fill_during_build)
    fill.start()
    try:
        output = play(source=spoilt, fails=True)
    finally:
        fill.join()
        on_server("rm -f /srv/filling /srv/filled")
    assert "No space left on device" in output


def test_the_last_words_of_the_instance_are_shown(host, spoilt, play, untouched):
    spoilt.append(
        "app.py",
        "\nprint('before the end', flush=True)\n"
        "app.view_functions['health.ready'] = lambda: ('no', 500)\n",
    )
    assert "before the end" in play(source=spoilt, fails=True)


def test_first_answers_may_be_slow(host, spoilt, play, current):
    spoilt.append("app.py", SLOW_TO_WARM_UP)
    before = current()
    play(source=spoilt)
    assert current() != before
    play("rollback-application")
    assert current() == before


def test_a_dump_is_made_before_a_migration(host, spoilt, play, current, sql):
    good_migration = MIGRATION.replace('    raise RuntimeError("the second half is missing")\n', "")
    good_migration += '\n\ndef downgrade():\n    op.execute("DROP TABLE half")\n'
    (spoilt.path / "migrations/versions/0002_whole.py").write_text(good_migration)
    before = current()
    play(source=spoilt)
    dump = f"/srv/webapp/dumps/{current()}.dump"
    assert on_server(f"stat -c '%a %U' {dump}") == "600 root"
    assert "TABLE DATA public users" in on_server(f"pg_restore --list {dump}")
    assert "half" not in on_server(f"pg_restore --list {dump}")
    assert sql("SELECT version_num FROM alembic_version") == "0002"

    # Going back would meet the new schema: refused, with both revisions, unless told to.
    output = play("rollback-application", fails=True)
    assert "was made for schema 0001; the database has 0002" in output
    assert dump in output
    assert "restore point of all databases: before-migration-" in output
    play("rollback-application", flask_app_rollback_accepts_schema=True)
    assert current() == before
    sql("DROP TABLE half")
    sql("UPDATE alembic_version SET version_num = '0001'")
