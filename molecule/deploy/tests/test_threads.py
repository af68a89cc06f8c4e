"""Nobody waits while a thread is idle, in whichever worker."""

import time
from statistics import median

from conftest import ADDRESS
from load import slow_request

testinfra_hosts = ["ansible://server"]
THREADS = 10  # 5 workers of 2


def test_every_thread_is_used_before_anybody_waits(host, good, play):
    good.change()
    play()
    longest = []
    for _ in range(3):
        time.sleep(1)  # nginx lets go what it kept: two of those may lead to one worker
        slow = [slow_request(ADDRESS, "/slow/4") for _ in range(THREADS)]
        longest.append(max(request.result().seconds for request in slow))
    assert median(longest) < 7  # on a busy machine a worker may wake too late for once


def test_who_comes_when_all_are_busy_is_answered_in_turn(host):
    slow = [slow_request(ADDRESS, "/slow/2") for _ in range(3 * THREADS)]
    assert max(request.result().seconds for request in slow) < 9
