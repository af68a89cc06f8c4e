"""What the monitoring sees of a machine of its own alone: the kernel's clock and memory."""

from collections.abc import Callable, Iterator

import pytest

testinfra_hosts = ["ansible://application"]

# adjtimex(2) as who keeps a clock calls it: modes, offset in ns, maximum and estimated error,
# status, and a time constant with which an offset lasts for an hour.
ADJUST = """
import ctypes, struct, sys
timex = ctypes.create_string_buffer(208)
status, offset = map(int, sys.argv[1:])
struct.pack_into("I4xqqqqi4xq", timex, 0, 0x203D, offset, 0, 0, 0, status, 10)
sys.exit(ctypes.CDLL(None).adjtimex(timex) < 0)
"""
KEPT, UNKEPT = 0x0001, 0x0040  # STA_PLL, STA_UNSYNC
# A program that wants ever more memory, within a bound.
GROW = "taken = []\nwhile True: taken.append(b'x' * 2**16)"
BOUNDED = "systemd-run --unit=greedy --collect --property=MemorySwapMax=0 --property=%s"


@pytest.fixture
def clock_is(host) -> Iterator[Callable[..., None]]:
    """Return a function: tell the kernel whether somebody keeps its clock, and how far it is off.

    Nobody else does so meanwhile.
    """
    host.check_output("timedatectl set-ntp false")

    def tell(status: int, offset: int = 0) -> None:
        host.check_output("python3 -c %s %s %s", ADJUST, str(status), str(offset))

    yield tell
    tell(KEPT)
    host.check_output("timedatectl set-ntp true")


def test_a_clock_that_nobody_keeps_fires_until_somebody_does(watch, clock_is):
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()
    clock_is(UNKEPT)
    assert watch.fires("ClockOff", "node"), watch.firing()
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()


def test_a_clock_that_is_off_fires_until_it_is_right(watch, clock_is):
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()
    clock_is(KEPT, offset=300_000_000)
    assert watch.fires("ClockOff", "node"), watch.firing()
    clock_is(KEPT)
    assert watch.clears("ClockOff", "node"), watch.firing()


def test_waiting_for_memory_fires_until_nobody_does(host, watch, afterwards):
    assert watch.clears("MemoryStalls", "node", 600), watch.firing()
    afterwards("systemctl stop greedy")
    host.check_output(f"{BOUNDED} python3 -c %s", "MemoryHigh=64M", GROW)
    assert watch.fires("MemoryStalls", "node", 300), watch.firing()
    host.check_output("systemctl stop greedy")
    assert watch.clears("MemoryStalls", "node", 600), watch.firing()


def test_a_program_that_the_kernel_kills_for_memory_fires_for_two_windows(host, watch):
    """Those of other tests are over first."""
    assert watch.clears("OutOfMemory", "node", 900), watch.firing()
    assert host.run(f"{BOUNDED} --wait python3 -c %s", "MemoryMax=64M", GROW).rc != 0
    assert watch.fires("OutOfMemory", "node", 300), watch.firing()
    assert watch.clears("OutOfMemory", "node", 900), watch.firing()
