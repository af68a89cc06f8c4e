"""What the monitoring sees of a machine of its own alone: the kernel's clock."""

from collections.abc import Callable, Iterator

import pytest

testinfra_hosts = ["ansible://application"]

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
