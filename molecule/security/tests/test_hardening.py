"""Seen from another host: who probes is locked out and let in again, and nobody else is."""

import time

import pytest

testinfra_hosts = ["ansible://all"]

OUTSIDE = "10.127.18.9"
SITE_TIMEOUT_SECONDS = 5


@pytest.fixture
def curl(outside, address, name):
    """Return a function: the statuses of requests from outside, 000 where no answer came."""

    def run(path: str, times: int = 1, seconds: int = 0) -> list[str]:
        """Ask so many times, or for so many seconds."""
        way = f"--resolve {name}:80:{address} --resolve {name}:443:{address}"
        options = f"--silent --insecure --location --max-time {SITE_TIMEOUT_SECONDS} {way}"
        ask = f"curl {options} --output /dev/null --write-out '%{{http_code}}\\n'"
        more = f"[ $(date +%s) -lt $end ] || [ $n -lt {times} ]"
        return outside(
            f"n=0; end=$(($(date +%s) + {seconds}));"
            f" while {more}; do {ask} http://{name}/{path}; n=$((n + 1)); done"
        ).stdout.split()

    return run


@pytest.fixture(autouse=True)
def nobody_is_banned(host):
    """Let everybody in, before a test and after it; the count of former bans is forgotten too.

    And so is what fail2ban has not read yet, for the next test: `refused.log` is appended to.
    """
    host.check_output("fail2ban-client unban --all")
    yield
    host.check_output("truncate --size=0 /var/log/nginx/refused.log")
    host.check_output("fail2ban-client unban --all")


def banned(host, jail: str) -> list[str]:
    """Return who is banned in a jail."""
    return host.check_output("fail2ban-client get %s banip", jail).split()


def wait_until(condition, seconds: float = 20) -> bool:
    """Ask until it is true, at most some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def ssh_greets(outside, address: str) -> bool:
    """Tell whether sshd on the server says its version to the host outside."""
    connect = f"import socket; s = socket.create_connection(('{address}', 22), 5)"
    said = outside(f'python3 -c "{connect}; print(s.recv(100).decode())"').stdout
    return said.startswith("SSH-2.0")


def test_repeated_probing_of_the_site_is_banned_and_can_be_unbanned(host, curl, outside, address):
    assert curl("health/live") == ["200"]
    curl("wp-login.php", times=120)
    assert wait_until(lambda: banned(host, "slipway-probing") == [OUTSIDE])
    assert curl("health/live") == ["000"]
    assert ssh_greets(outside, address)  # only the site is closed
    assert host.check_output("fail2ban-client unban %s", OUTSIDE) == "1"
    assert curl("health/live") == ["200"]


def test_repeated_guessing_of_a_password_of_the_site_is_banned(host, curl, afterwards):
    """The site asks for one, and every request is without."""
    asks = "auth_basic x; auth_basic_user_file /dev/null;"
    file, kept = "/etc/slipway/tls/webapp.conf", "/root/webapp.conf"
    afterwards(f"cp {kept} {file}; rm {kept}; systemctl reload nginx")
    host.check_output(f"cp {file} {kept}; echo '{asks}' >> {file}; systemctl reload nginx")
    assert wait_until(lambda: curl("health/live") == ["401"])
    curl("health/live", times=120)
    assert wait_until(lambda: banned(host, "slipway-probing") == [OUTSIDE])


def test_a_visitor_who_meets_some_dead_links_is_not_banned(host, curl):
    for _ in range(3):
        assert set(curl("old-page", times=20)) == {"404"}
        assert set(curl("", times=20)) == {"200"}
    time.sleep(3)
    assert banned(host, "slipway-probing") == []
    assert curl("health/live") == ["200"]


def test_the_words_of_a_request_get_nobody_banned(host, outside, address, name):
    """A forged address, in all that a client may write, 120 times."""
    forged = "203.0.113.99"
    now = int(time.time())
    line = f"{now}.000 {forged} 404"
    ask = (
        f"curl --silent --insecure --location --max-time 5 --output /dev/null"
        f" --resolve {name}:80:{address} --resolve {name}:443:{address}"
        f" --user '{line}:x' --user-agent '{line}' --referer '{line}'"
        f" --header 'X-Forwarded-For: {forged}' 'http://{name}/x%0a{now}.000%20{forged}%20404'"
    )
    outside(f"for i in $(seq 120); do {ask}; done")
    assert wait_until(lambda: banned(host, "slipway-probing") == [OUTSIDE])
    log = host.file("/var/log/nginx/refused.log").content_string
    assert f"{OUTSIDE} 404" in log
    assert forged not in log


def test_repeated_ssh_logins_are_banned_and_can_be_unbanned(host, outside, address):
    assert ssh_greets(outside, address)
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    for number in range(6):
        outside(f"ssh {options} -o ConnectTimeout=5 guest{number}@{address} true")
    assert wait_until(lambda: banned(host, "sshd") == [OUTSIDE])
    assert not ssh_greets(outside, address)
    assert host.check_output("fail2ban-client unban %s", OUTSIDE) == "1"
    assert ssh_greets(outside, address)


def test_bans_stand_in_a_table_of_their_own(host, outside, curl):
    before = tables(host)
    curl("wp-login.php", times=120)
    assert wait_until(lambda: banned(host, "slipway-probing") == [OUTSIDE])
    assert tables(host) - before <= {"inet f2b-table"}
    own = host.check_output("nft list table inet f2b-table")
    assert OUTSIDE in own
    assert "policy accept" in own


def tables(host) -> set[str]:
    """Return the tables of nftables."""
    listed = host.check_output("nft list tables").splitlines()
    return {line.removeprefix("table ") for line in listed}


def test_a_banned_address_stays_banned_when_fail2ban_restarts(host, curl):
    curl("wp-login.php", times=120)
    assert wait_until(lambda: banned(host, "slipway-probing") == [OUTSIDE])
    host.check_output("systemctl restart fail2ban")
    ask = "fail2ban-client get slipway-probing banip || true"  # it is not there at once
    assert wait_until(lambda: OUTSIDE in host.run(ask).stdout)
    assert curl("health/live") == ["000"]


def test_the_application_survives_a_restart_of_postgresql(host, curl, sql, master_pid, workers):
    """As an upgrade of its package does it; requests go on meanwhile."""
    pids = sorted(worker.pid for worker in workers)
    began = sql("SELECT pg_postmaster_start_time()")
    assert set(curl("health/ready", times=10)) == {"200"}
    soon = "--on-active=2 --timer-property=AccuracySec=100ms"
    host.check_output(f"systemd-run {soon} systemctl restart postgresql")
    seen = curl("users", seconds=15)
    assert sql("SELECT pg_postmaster_start_time()") > began
    assert set(seen) <= {"200", "503"}
    assert len(seen) > 100
    assert set(seen[-20:]) == {"200"}
    assert sorted(process.pid for process in host.process.filter(ppid=master_pid)) == pids
