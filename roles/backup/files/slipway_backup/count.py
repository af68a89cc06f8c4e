"""count.py NAME OPTIONS: name a restore point and count all rows as they are at it.

It runs as postgres, connects with these options, and prints JSON.

A transaction that commits while one counts makes two counts differ, and nobody could tell it from
a lost row. So for some milliseconds nobody writes: all tables are locked against it, the snapshots
are taken, the point is named, the locks are let go. Counting, which takes long, is done in these
snapshots. Where somebody writes without a pause, all is let go and tried again later.
"""

from __future__ import annotations

import json
import sys
import time

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ

LOCK_MILLISECONDS = 100  # so long may a write of the application wait
ATTEMPTS = 20
PAUSE_SECONDS = 1.5
OPTIONS = (
    f"-c lock_timeout={LOCK_MILLISECONDS} -c statement_timeout=0 "
    "-c idle_in_transaction_session_timeout=0"
)
BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.UndefinedTable)
DATABASES = """SELECT datname FROM pg_database
    WHERE datallowconn AND datname NOT IN ('postgres', 'template1') ORDER BY 1"""
TABLES = """SELECT n.nspname, c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"""
# Without a function or a cast: of an application's type these might be the application's own.
REVISION = "SELECT version_num FROM ONLY public.alembic_version"
SHOWN = "SELECT format('%%I.%%I', %s::text, %s::text)"


def connect(database: str):
    """Connect by the local socket; nothing of an application may run with our rights (SAFELY)."""
    options = f"{sys.argv[2]} {OPTIONS}"
    return psycopg2.connect(dbname=database, host="/run/postgresql", options=options)


def ask(connection, query, *values):
    """Return the first column of an answer."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return [row[0] for row in cursor.fetchall()]


class Database:
    """One database: `hold` keeps writers away, `release` lets them go on, then `count`."""

    def __init__(self, name: str):
        self.name = name
        self.holder, self.counter = connect(name), connect(name)
        for connection in (self.holder, self.counter):
            connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
        with self.counter.cursor() as cursor:
            cursor.execute(TABLES)
            self.tables = cursor.fetchall()
        self.counter.rollback()

    def hold(self) -> None:
        """Lock all tables, and take the snapshot after that."""
        names = [sql.SQL("ONLY {}").format(sql.Identifier(*table)) for table in self.tables]
        with self.holder.cursor() as cursor:
            if names:
                cursor.execute(
                    sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.SQL(", ").join(names))
                )
        (snapshot,) = ask(self.holder, "SELECT pg_export_snapshot()")
        with self.counter.cursor() as cursor:
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))

    def release(self) -> None:
        """Let writers go on."""
        self.holder.rollback()

    def count(self) -> dict:
        """Return revision and rows of each table."""
        rows, revisions = {}, []
        for table in self.tables:
            (shown,) = ask(self.counter, SHOWN, *table)
            query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*table))
            (rows[shown],) = ask(self.counter, query)
        if ("public", "alembic_version") in self.tables:
            revisions = ask(self.counter, REVISION)
        return {"revision": ",".join(sorted(revisions)), "rows": rows}

    def close(self) -> None:
        """Let everything go."""
        self.holder.close()
        self.counter.close()


def attempt(admin, point: str) -> dict | None:
    """Name the point while nobody writes, then count; None where somebody does not pause."""
    databases = [Database(name) for name in ask(admin, DATABASES)]
    try:
        try:
            for database in databases:
                database.hold()
            (lsn,) = ask(admin, "SELECT pg_create_restore_point(%s)::text", point)
        except BUSY:
            return None
        finally:
            for database in databases:
                database.release()
        counted = {database.name: database.count() for database in databases}
        return {"point": point, "lsn": lsn, "databases": counted}
    finally:
        for database in databases:
            database.close()


def main() -> None:
    """Try some times; without luck name the point alone, of which nothing can be said then."""
    point = sys.argv[1]
    admin = connect("postgres")
    admin.autocommit = True
    for number in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS if number else 0)
        if found := attempt(admin, point):
            break
    else:
        (lsn,) = ask(admin, "SELECT pg_create_restore_point(%s)::text", point)
        found = {"point": point, "lsn": lsn, "databases": None}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
