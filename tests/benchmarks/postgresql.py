#!/usr/bin/env python3
"""Does the tuning help: PostgreSQL as Debian ships it, and with the role's settings for a size.

In one fresh container for each size of VPS, with the memory of that size where podman can limit it.
Where it cannot, and this machine has nothing else to do, BENCH_LOCK_MEMORY=1 locks all memory but
that; it needs root. The page says what was done. The figures go to docs/benchmarks.md:

    .venv/bin/python tests/benchmarks/postgresql.py [--rounds N | --quick]
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import (
    ANSIBLE_PLAYBOOK,
    ROOT,
    BenchmarkError,
    fresh_host,
    main,
    run,
    say,
    spread,
    ssh,
    table,
    tail,
)

HERE = Path(__file__).with_suffix("")
COMMAND = "make bench-postgresql"
NAME, ADDRESS = "bench-postgresql", "127.0.24.41"
VCPUS = 2
LIMIT = "cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max"
INSTALL = """
mkdir -p /etc/postgresql-common/createcluster.d
echo "initdb_options = '--data-checksums'" > /etc/postgresql-common/createcluster.d/bench.conf
apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet \
    --no-install-recommends postgresql
"""


class Size(NamedTuple):
    """A VPS: the memory that Linux has of it, and pgbench's scale and orders for half of that."""

    memory_mib: int
    scale: int
    orders: int


SIZES = {"1 GB": Size(960, 20, 600_000), "2 GB": Size(1960, 40, 1_200_000),
         "4 GB": Size(3920, 80, 2_400_000)}  # fmt: skip
VARIANTS = ("default", "role")
FIGURES = {
    "read": "one row by its key, transactions/s",
    "write": "TPC-B, transactions/s",
    "wal": "TPC-B, KiB of WAL for a transaction",
    "pages": "TPC-B, pages that sessions wrote themselves for 1000 transactions",
    "lookup": "rows of 20 customers by an index, ms",
    "report": "sums by customer and day, ms",
}
MORE_IS_BETTER = ("read", "write")


def settings_of(size: Size, work: Path) -> str:
    """Return what the role would write for this size."""
    target = work / "10-slipway.conf"
    inputs = {"memory_mib": size.memory_mib, "vcpus": VCPUS, "target": target}
    words = [word for name, value in inputs.items() for word in ("-e", f"{name}={value}")]
    command = [ANSIBLE_PLAYBOOK, "-i", "localhost,", *words, HERE / "settings.yml"]
    run(command, work / "settings.log", cwd=ROOT)
    return target.read_text()


@contextlib.contextmanager
def left_with(mib: int) -> Iterator[None]:
    """Lock all memory of this machine but so much.

    :raises BenchmarkError: where it may not.
    """
    command = [sys.executable, HERE / "leave.py", str(mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout.readline() != b"locked\n":
                raise BenchmarkError("the memory could not be locked")
            yield
        finally:
            process.kill()


def measure_once(host: dict, settings: str, seconds: int, work: Path) -> dict[str, float]:
    """Measure with these settings.

    :raises BenchmarkError: where a figure is missing.
    """
    given, output = work / "settings.conf", work / "measure.log"
    given.write_text(settings)
    run(ssh(host, f"./measure.sh {seconds}"), output, stdin=given)
    found = dict(re.findall(r"^(\w+) ([\d.]+)$", output.read_text(), re.MULTILINE))
    if missing := FIGURES.keys() - found.keys():
        raise BenchmarkError(f"no figure for {', '.join(sorted(missing))}\n{tail(output)}")
    return {name: float(found[name]) for name in FIGURES}


def bring(host: dict, name: str, work: Path) -> None:
    """Put one of our scripts on the host."""
    command = f"cat > {name} && chmod +x {name}"
    run(ssh(host, command), work / "bring.log", stdin=HERE / name)


def measure_rounds(host: dict, name: str, settings: dict, rounds: int, seconds: int) -> dict:
    """Measure the variants in turn."""
    results = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number in range(1, rounds + 1):
            # In turn also who comes first, for what one leaves to be written meets the next.
            for variant in VARIANTS[:: 1 if number % 2 else -1]:
                figures = measure_once(host, settings[variant], seconds, Path(folder))
                results[variant].append(figures)
                told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                say(f"{name}, round {number} of {rounds}: {variant:7} {told}")
    return results


def measure(rounds: int, seconds: int, sizes: list[str]) -> tuple[dict, str]:
    """Measure each size in each variant; tell how the memory was limited."""
    results, limited = {}, ""
    for name in sizes:
        size = SIZES[name]
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            fresh_host(NAME, ADDRESS, f"--memory-mib={size.memory_mib}") as host,
            contextlib.ExitStack() as stack,
        ):
            work = Path(folder)
            settings = {"default": "", "role": settings_of(size, work)}
            run(ssh(host, INSTALL), work / "install.log")
            for script in ("load.sh", "measure.sh"):
                bring(host, script, work)
            took = run(ssh(host, f"./load.sh {size.scale} {size.orders}"), work / "load.log")
            say(f"{name}: loaded in {took:.0f} s")
            run(ssh(host, LIMIT), work / "limit.log")
            if (work / "limit.log").read_text().strip() != "max":
                limited = BY_CONTAINER
            elif os.environ.get("BENCH_LOCK_MEMORY") == "1":
                limited = BY_LOCK
                stack.enter_context(left_with(size.memory_mib))
            else:
                limited = NOT_AT_ALL
            results[name] = measure_rounds(host, name, settings, rounds, seconds)
    return results, limited


def gain(name: str, variants: dict[str, list[dict]]) -> str:
    """Write how many times better the role's are: the median of each round's own ratio."""
    if not all(one[name] for figures in variants.values() for one in figures):
        return "-"
    pairs = zip(variants["role"], variants["default"], strict=True)
    ratios = [ours[name] / theirs[name] for ours, theirs in pairs]
    return f"{median(ratios if name in MORE_IS_BETTER else [1 / ratio for ratio in ratios]):.2f}"


BY_CONTAINER = "The container had no more memory than that, the kernel's cache of files included."
BY_LOCK = """The memory of a container cannot be limited on this machine: all but that of the whole
machine was locked, the kernel's cache of files included (`BENCH_LOCK_MEMORY=1`)."""
NOT_AT_ALL = """The container's memory was not limited, for this machine cannot: all
data stays in the kernel's cache, so this does not show what it means when they no longer fit."""


def section(results: dict, machine: str, seconds: int, limited: str) -> str:
    """Write our section of the page."""
    rows = []
    for size, variants in results.items():
        for name, title in FIGURES.items():
            digits = 1 if name == "wal" else 0
            values = [spread([one[name] for one in variants[key]], digits) for key in VARIANTS]
            rows.append([f"{size}: {title}", *values, gain(name, variants)])
    rounds = len(next(iter(results.values()))["role"])
    sizes = "; ".join(
        f"{name}: pgbench at scale {SIZES[name].scale} and {SIZES[name].orders} orders"
        for name in results
    )
    return f"""## PostgreSQL's settings

`{COMMAND}` on {machine}.

Debian's settings, and those that the role postgresql computes for a VPS with {VCPUS} vCPUs and the
memory of the size ({sizes}), what
watches (`pg_stat_statements`, `track_io_timing`) included. Both in one container, on the same data;
they take turns, the server is restarted and its buffers filled before each. Each figure is the
median [minimum-maximum] of {rounds} rounds: of the second half of {seconds} s of reading or of
{2 * seconds} s of writing with 8 clients, or of queries in one connection; the last column says how
many times better the role's are (faster, or less), the median of each round's own ratio.
{limited}

{table(["", "Debian's", "the role's", "times"], rows)}"""


def measured(rounds: int, machine: str, write: bool) -> str:
    """Measure, and return our section of the page."""
    seconds = 20 if write else 2
    sizes = list(SIZES) if write else list(SIZES)[:1]
    results, limited = measure(rounds, seconds, sizes)
    return section(results, machine, seconds, limited)


if __name__ == "__main__":
    main("postgresql", __doc__, measured, rounds=3)
