"""The status of a host is there in seconds; nothing else runs beside this scenario."""

import time
from statistics import median

testinfra_hosts = ["ansible://server"]
SECONDS, RUNS, ROUNDS = 3, 5, 3


def test_the_status_takes_less_than_three_seconds(run_ops):
    assert run_ops("status").returncode == 0  # apt's answer is kept from here on
    medians = []
    while len(medians) < ROUNDS and not any(one < SECONDS for one in medians):
        took = []
        for _ in range(RUNS):
            began = time.monotonic()
            assert run_ops("status").returncode == 0
            took.append(time.monotonic() - began)
        medians.append(median(took))  # a round may have met a machine that had other work
    assert min(medians) < SECONDS, medians
