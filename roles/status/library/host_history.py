#!/usr/bin/python
"""Sum up the last 24 hours: requests from nginx's logs, the machine from its Prometheus."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_look import seconds_taken

DAY_SECONDS, BIN_SECONDS = 86400, 900
BINS = DAY_SECONDS // BIN_SECONDS + 1  # quarters of an hour by the clock; the last is not over yet
HUNDRED = 100  # of a line's time no more is needed than in which hundred of seconds it was
# The end of a line of nginx's log format `timed`, as in host_look.py; here of a whole block.
LINES = re.compile(
    rb'" (\d{3}) \d+ "[^"\n]*" "[^"\n]*" \S+ [0-9a-f]+ \d+\.\d{3} ([-\d., :]+) (\S+) '
    rb"(\d+)\d\d\.\d{3}$",
    re.MULTILINE,
)
BLOCK = 4 << 20
MOST_SECONDS = 30
PROMETHEUS_SECONDS = 5
KEYS = ("count", "p50_ms", "p99_ms", "answers_5xx")
# What is asked of Prometheus, in percent: what the role monitoring records.
QUERIES = {
    "processor": "100 * machine:cpu_used:ratio",
    "memory": "100 * (1 - machine:memory_available:ratio)",
    "disk": "100 * max(machine:disk_used:ratio)",
    "connections": "100 * database:connections:used / database:connections:allowed",
}


def blocks(path: Path) -> Iterator[bytes]:
    """Read a log in blocks of whole lines: from its end, or if it is compressed from its start."""
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            while block := file.read(BLOCK):
                yield block + file.readline()
        return
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position > 0:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size) + rest
            end = (block.find(b"\n") + 1 or len(block)) if position else 0
            rest = block[:end]
            yield block[end:]


def milliseconds(times: bytes) -> int:
    """Return a duration with three digits; so there are few different ones, however many lines."""
    exact = round(seconds_taken(times) * 1000)
    size = 10 ** max(0, len(str(exact)) - 3)
    return exact // size * size


class Day:
    """The requests of the applications in the bins of a day, and since when all are known."""

    def __init__(self, apps: list[str], now: int):
        self.start = self.known_from = now // BIN_SECONDS * BIN_SECONDS - DAY_SECONDS
        self.end = self.start + BINS * BIN_SECONDS
        self.durations = {app: [Counter() for _ in range(BINS)] for app in apps}
        self.errors = {app: [0] * BINS for app in apps}
        self.oldest = now

    def add(self, lines: Counter) -> None:
        """Add lines of a log; what is of another time or application is let be."""
        for (status, times, name, hundreds), count in lines.items():
            at, app = int(hundreds) * HUNDRED, name.decode(errors="replace")
            self.oldest = min(self.oldest, at)
            if app in self.durations and self.start <= at < self.end:
                place = (at - self.start) // BIN_SECONDS
                self.durations[app][place][milliseconds(times)] += count
                self.errors[app][place] += count if status >= b"500" else 0

    def read(self, log: Path, deadline: float) -> None:
        """Read the log and those that were rotated, the newest first, until a day is full."""
        found = [(path.stat().st_mtime, path) for path in log.parent.glob(f"{log.name}*")]
        for written, path in sorted(found, reverse=True):
            if written < self.start:
                return
            known = self.oldest
            for block in blocks(path):
                if time.monotonic() > deadline:  # of a compressed log the end is not read yet
                    self.known_from = known if path.suffix == ".gz" else self.oldest
                    return
                self.add(Counter(LINES.findall(block)))
                if self.oldest < self.start and path.suffix != ".gz":
                    return
            if self.oldest < self.start:
                return
        self.known_from = self.oldest

    def app(self, name: str) -> dict:
        """Return the figures of an application: of each bin that is known, and of all of them."""
        first = (self.known_from - self.start) // BIN_SECONDS
        known, errors = self.durations[name][first:], self.errors[name][first:]
        rows = [
            {**summary(one), "answers_5xx": bad} for one, bad in zip(known, errors, strict=True)
        ]
        unknown = [dict.fromkeys(KEYS)] * first
        return {
            "total": {**summary(sum(known, Counter())), "answers_5xx": sum(errors)},
            "bins": {key: [row[key] for row in [*unknown, *rows]] for key in KEYS},
        }


def summary(durations: Counter) -> dict:
    """Return the number of requests and their percentiles; None where there were none."""
    total = durations.total()
    wanted = {"p50_ms": total // 2, "p99_ms": total * 99 // 100}
    found, seen = dict.fromkeys(wanted), 0
    for duration in sorted(durations):
        seen += durations[duration]
        for key, place in wanted.items():
            if found[key] is None and seen > place:
                found[key] = duration
    return {"count": total, **found}


def ask_prometheus(url: str, query: str, now: int) -> list[float | None]:
    """Return a value in each bin, the last one of now; None where there is none."""
    times = [now - BIN_SECONDS * before for before in reversed(range(BINS))]
    fields = {"query": query, "start": times[0], "end": now, "step": BIN_SECONDS}
    asked = f"{url}/api/v1/query_range?{urllib.parse.urlencode(fields)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=PROMETHEUS_SECONDS) as answer:
        series = json.load(answer)["data"]["result"]
    values = {int(at): float(value) for at, value in series[0]["values"]} if series else {}
    return [round(values[at], 1) if math.isfinite(values.get(at, math.nan)) else None
            for at in times]  # fmt: skip


def machine(url: str, now: int) -> dict | None:
    """Return what Prometheus has of the machine; None where there is no Prometheus."""
    try:
        return {name: ask_prometheus(url, query, now) for name, query in QUERIES.items()}
    except (OSError, ValueError, KeyError):
        return None


def main() -> None:
    """Read and ask, with less right to a processor than the applications have."""
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "str", "required": True},
            "access_log": {"type": "path", "required": True},
            "prometheus_url": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    os.nice(10)
    now, apps = int(time.time()), module.params["apps"]
    day = Day(apps, now)
    day.read(Path(module.params["access_log"]), time.monotonic() + MOST_SECONDS)
    module.exit_json(
        changed=False,
        start=day.start,
        now=now,
        bin_seconds=BIN_SECONDS,
        known_from=day.known_from,
        apps={app: day.app(app) for app in apps},
        machine=machine(module.params["prometheus_url"], now),
    )


if __name__ == "__main__":
    main()
