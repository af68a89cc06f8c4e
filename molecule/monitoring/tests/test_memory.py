"""What it costs: the pages that only the start of the daemons has used are given back."""

import re
import time

testinfra_hosts = ["ansible://application"]

DAEMONS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter",
           "prometheus-nginx-exporter", "prometheus-postgres-exporter")  # fmt: skip


def resident(host) -> int:
    """Return how many bytes are resident or in the swap, shared pages by their share (PSS)."""
    pids = [host.service(name).systemd_properties["MainPID"] for name in DAEMONS]
    pages = host.check_output("cat " + " ".join(f"/proc/{pid}/smaps_rollup" for pid in pids))
    shares = re.findall(r"^(?:Swap)?Pss: +(\d+) kB$", pages, re.MULTILINE)
    assert len(shares) == 2 * len(DAEMONS)
    return sum(map(int, shares)) * 1024


def test_what_only_the_start_has_used_is_given_back_and_stays_away(host, watch):
    host.check_output("systemctl restart " + " ".join(DAEMONS))
    assert watch.until(lambda: watch.ask("/api/v1/query?query=slipway_app_up").get("result"), 60)
    started = resident(host)
    assert watch.until(lambda: resident(host) < started - 20_000_000, 150), started
    time.sleep(60)
    assert resident(host) < 150_000_000
