"""Ask for one user again and again over one connection, with psycopg2 and nothing else.

Prints as JSON how often, how many seconds of processor time that took, and with which libpq.

    python query_loop.py CONNECTION SECONDS
"""

import json
import random
import sys
import time

import psycopg2

USERS = 10_000


def main() -> None:
    """Ask until the time is over."""
    with psycopg2.connect(sys.argv[1]) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        queries, cpu, began = 0, time.process_time(), time.monotonic()
        while time.monotonic() - began < float(sys.argv[2]):
            user = random.randint(1, USERS)  # noqa: S311  # no secret
            cursor.execute("SELECT id, name FROM users WHERE id = %s", (user,))
            cursor.fetchone()
            queries += 1
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    answer = {"rate": queries / seconds, "cpu_us": cpu / queries * 1e6}
    print(json.dumps(answer | {"libpq": psycopg2.__libpq_version__}))


if __name__ == "__main__":
    main()
