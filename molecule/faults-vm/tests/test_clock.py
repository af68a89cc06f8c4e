"""A clock that nobody keeps is told: only a machine of its own has a clock to lose."""

import json
import time

testinfra_hosts = ["ansible://application"]

ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
# Answers with the host's own time, as a time server of the first stratum that has just looked.
NTP = """
import socket, struct, time
ntp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ntp.bind(("127.0.0.1", 123))
while True:
    asked, client = ntp.recvfrom(512)
    now = int((time.time() + 2208988800) * 2**32)
    head = struct.pack("!BBbb3I", 0x24, 1, 6, -20, 0, 0, 0x474F4F44)
    ntp.sendto(head + struct.pack("!Q8sQQ", now, asked[40:48], now, now), client)
"""
SERVER = "/etc/systemd/timesyncd.conf.d/test.conf"


def is_firing(host) -> bool:
    """Tell whether ClockOff is firing."""
    answer = host.check_output("python3 -c %s %s", ASK, "http://127.0.0.1:9090/api/v1/alerts")
    return any(
        alert["labels"]["alertname"] == "ClockOff" and alert["state"] == "firing"
        for alert in json.loads(answer)["data"]["alerts"]
    )


def becomes(host, state: bool) -> bool:
    """Wait until the alert is firing, or is not; an emulated machine takes its time."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if is_firing(host) == state:
            return True
        time.sleep(5)
    return False


def test_a_clock_that_nobody_keeps_fires_until_somebody_does(host):
    """No time server can be reached from here, until one is started."""
    assert host.check_output("timedatectl show --property=NTPSynchronized --value") == "no"
    assert becomes(host, True)
    host.check_output("systemd-run --collect --unit=test-ntp python3 -c %s", NTP)
    host.check_output("install -D /dev/null %s", SERVER)
    host.check_output("printf '[Time]\\nNTP=127.0.0.1\\n' > %s", SERVER)
    host.check_output("systemctl restart systemd-timesyncd")
    try:
        assert becomes(host, False)
        assert host.check_output("timedatectl show --property=NTPSynchronized --value") == "yes"
    finally:
        host.check_output("rm %s && systemctl stop test-ntp", SERVER)
        host.check_output("systemctl restart systemd-timesyncd")
