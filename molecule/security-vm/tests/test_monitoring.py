"""What the monitoring sees and costs on a machine of its own: the kernel's clock, its memory."""

import re
from collections.abc import Callable, Iterator

import pytest

testinfra_hosts = ["ansible://application"]

DAEMONS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter",
           "prometheus-nginx-exporter", "prometheus-postgres-exporter")  # fmt: skip
# adjtimex(2) as who keeps a clock calls it: modes, maximum and estimated error, status.
ADJUST = """
import ctypes, struct, sys
timex = ctypes.create_string_buffer(208)
struct.pack_into("I4xqqqqi", timex, 0, 0x1C, 0, 0, 0, 0, int(sys.argv[1]))
sys.exit(ctypes.CDLL(None).adjtimex(timex) < 0)
"""
KEPT, UNKEPT = 0x0001, 0x0040  # STA_PLL, STA_UNSYNC


@pytest.fixture
def clock_is(host) -> Iterator[Callable[[int], None]]:
    """Return a function: tell the kernel whether somebody keeps its clock, as nobody else does."""
    host.check_output("timedatectl set-ntp false")
    yield lambda status: host.check_output("python3 -c %s %s", ADJUST, str(status))
    host.check_output("timedatectl set-ntp true")


def test_a_clock_that_nobody_keeps_fires_until_somebody_does(watch, clock_is):
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()
    clock_is(UNKEPT)
    assert watch.fires("ClockOff", "node"), watch.firing()
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()


def test_all_of_it_takes_less_than_150_megabytes(host):
    """As resident pages by their share (PSS), and as the kernel counts it against MemoryHigh."""
    resident = counted = 0
    for name in DAEMONS:
        pid = host.service(name).systemd_properties["MainPID"]
        pages = host.check_output(f"cat /proc/{pid}/smaps_rollup")
        resident += int(re.search(r"^Pss: +(\d+) kB$", pages, re.M)[1]) * 1024
        group = f"/sys/fs/cgroup/system.slice/{name}.service"
        counted += int(host.check_output(f"cat {group}/memory.current"))
    assert 50_000_000 < resident < 150_000_000
    assert 20_000_000 < counted < 150_000_000
