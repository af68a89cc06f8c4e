"""Print the time and the memory of all processes of a user, in MiB, until the input ends.

It is the proportional set size (PSS), in which what processes share is counted once.

    python3 memory.py USER SECONDS
"""

import contextlib
import pwd
import select
import sys
import time
from pathlib import Path

PAUSE_SECONDS = 0.2


def memory_mib(user: int) -> float:
    """Add up what the processes of a user take now."""
    kib = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if process.stat().st_uid == user:
                lines = (process / "smaps_rollup").read_text().splitlines()
                kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def main() -> None:
    """Print a line now and again, for some time at most."""
    user, end = pwd.getpwnam(sys.argv[1]).pw_uid, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end and not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        print(time.monotonic(), memory_mib(user), flush=True)


if __name__ == "__main__":
    main()
