"""What strangers send: refused and logged, and everybody else is answered meanwhile."""

import concurrent.futures
import json
import re
import threading
import time
from urllib.parse import urlencode

import pytest

testinfra_hosts = ["ansible://application"]

NORMAL = "/health/ready?normal"
SMUGGLED = b"GET /version?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def logged(host):
    """Return a function: the lines of nginx's log that a test's own requests have left."""
    before = int(host.check_output("wc --lines < /var/log/nginx/access.log"))

    def lines(text: str = "") -> list[str]:
        tail = host.check_output(f"tail --lines=+{before + 1} /var/log/nginx/access.log")
        return [line for line in tail.splitlines() if text in line and NORMAL not in line]

    return lines


def statuses(lines: list[str]) -> list[int]:
    """Return the statuses that lines of the log tell."""
    return [int(re.search(r'" (\d{3}) ', line)[1]) for line in lines]


@pytest.fixture(autouse=True)
def normal_client(attacker):
    """Ask all the time, as anybody does; yield each status and how long it took.

    When the test is over, all of them must have been good.
    """
    over, answers = threading.Event(), []

    def ask() -> None:
        while not answers or not over.wait(0.2):
            began = time.monotonic()
            try:
                status = attacker.request(NORMAL)[0]
            except OSError as error:
                status = repr(error)
            answers.append((status, time.monotonic() - began))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        yield answers
        over.set()
        asking.result()
    assert {status for status, _ in answers} == {200}


def test_a_normal_client_is_answered(attacker):
    assert attacker.request("/health/ready")[0] == 200


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 6", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
        (["Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"], SMUGGLED),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding : chunked"], b"0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: x"], b"0\r\n\r\n" + SMUGGLED),
        (["Transfer-Encoding: chunked"], b"fffffffffffffffff\r\nx\r\n0\r\n\r\n" + SMUGGLED),
        (["Content-Length: -1"], SMUGGLED),
        (["Content-Length: +5"], SMUGGLED),
        (["X: a\x00b"], SMUGGLED),
    ],
)
def test_no_request_is_smuggled_and_the_attempt_is_logged(attacker, logged, headers, body):
    lines = ["POST /users HTTP/1.1", f"Host: {attacker.name}", *headers, "", ""]
    answer = attacker.send("\r\n".join(lines).encode() + body, seconds=3)
    assert re.match(rb"HTTP/1.1 (400|501)", answer)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"release" not in answer
    assert statuses(logged()) == [int(answer.split()[1])]


def test_oversized_requests_are_refused_and_logged(attacker, logged):
    assert attacker.request("/", "X: " + "a" * 40_000)[0] == 400
    assert attacker.request("/" + "long" * 5_000)[0] == 414
    announced = ["Content-Length: 11000000", "Content-Type: application/json"]
    assert attacker.request("/users", *announced, method="POST")[0] == 413
    assert sorted(statuses(logged())) == [400, 413, 414]


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static../app.py", "/static/%2e%2e/app.py",
     "/static/....//app.py", "/static/..%5capp.py", "/static//etc/passwd", "/static/%00",
     "/.git/config", "/.env", "/environment", "/app.py"],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_folder(attacker, logged, path):
    status, answer = attacker.request(path)
    assert status in (400, 404)
    assert b"Flask" not in answer.split(b"\r\n\r\n", 1)[1]
    assert b"root:" not in answer
    assert statuses(logged()) == [status]


def test_an_unknown_host_gets_no_application_and_is_logged(attacker, logged):
    for host in ("evil.example.com", "127.0.0.1", attacker.address, "", "evil.example.com:443"):
        status, answer = attacker.request("/version", host=host or "%")
        assert status in (0, 400, 421), answer
        assert b"release" not in answer
    assert set(statuses(logged())) <= {400, 421, 444}
    assert len(logged()) == 5


def test_forged_forwarding_headers_change_nothing(attacker, logged, name):
    """What the application is told of them, test_sandbox.py asks it."""
    forged = [
        "X-Forwarded-For: 198.51.100.99",
        "X-Forwarded-Host: evil.example.com",
        "X-Forwarded-Proto: http",
        "X-Real-IP: 198.51.100.99",
        "Forwarded: for=198.51.100.99;host=evil.example.com",
    ]
    _, answer = attacker.request("/health//ready", *forged)
    assert f"\r\nLocation: https://{name}/health/ready\r\n".encode() in answer
    assert len(logged("GET /health//ready ")) == 1
    assert logged("198.51.100.99") == []


INJECTIONS = ["'; DROP TABLE users; --", "' OR '1'='1", "\\'; SELECT pg_sleep(9); --", "%' AND 1=1"]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize(
    ("path", "kind", "encode", "status"),
    [("/users", "json", json.dumps, 201), ("/", "x-www-form-urlencoded", urlencode, 303)],
    ids=["JSON", "form"],
)
def test_sql_in_a_field_is_only_text(attacker, sql, path, kind, encode, status, text):
    kind, body = f"Content-Type: application/{kind}", encode({"name": text}).encode()
    assert attacker.request(path, kind, method="POST", body=body)[0] == status
    assert sql("SELECT name FROM users ORDER BY id DESC LIMIT 1") == text


@pytest.mark.parametrize(
    "path",
    ["/users/1%20OR%201=1", "/users/1;DROP%20TABLE%20users", "/users/-1%20UNION%20SELECT%201",
     "/users?page=1%20OR%201=1", "/users?page=1;SELECT%20pg_sleep(9)", "/users?per_page='",
     "/?page=1%20OR%201=1", "/?page=1;SELECT%20pg_sleep(9)", "/?per_page='"],
)  # fmt: skip
def test_sql_in_a_url_is_refused(attacker, sql, path):
    began = time.monotonic()
    assert attacker.request(path)[0] in (400, 404)
    assert time.monotonic() - began < 5
    assert int(sql("SELECT count(*) FROM users")) > 0


@pytest.fixture(scope="module")
def tunnel(outside, address, name):
    """Bring by TLS what slowhttptest says in clear: it would name no host there, and be refused.

    Its buffers are small, so that a slow reader is slow for nginx too.
    """
    port = 8000 + int(address.rpartition(".")[2])
    unit, file = f"tunnel-{name}", f"/run/{name}.conf"
    settings = [
        "foreground = yes",
        "client = yes",
        "socket = l:SO_SNDBUF=4096",
        "socket = r:SO_RCVBUF=4096",
        "[tls]",
        f"accept = 127.0.0.1:{port}",
        f"connect = {address}:443",
        f"sni = {name}",
    ]
    outside("printf '%s\\n' " + " ".join(f"'{line}'" for line in settings) + f" > {file}")
    start = f"systemd-run --unit {unit} --property LimitNOFILE=8192 stunnel {file}"
    assert outside(start).returncode == 0
    yield f"127.0.0.1:{port}"
    outside(f"systemctl stop {unit}")


@pytest.mark.parametrize(
    ("how", "path", "cut_off"),
    [
        ("-H -i 10", "/users?slow", " 408 0 "),
        ("-B -i 20 -s 8192", "/users?slow", " 408 0 "),
        ("-X -w 512 -y 1024 -n 5 -z 32 -k 3", "/static/large?slow", r" 200 \d{5,6} "),
    ],
    ids=["slow headers", "slow bodies", "slow readers"],
)
def test_slow_clients_are_cut_off_and_logged_and_slow_nobody_else(
    host, outside, name, tunnel, afterwards, logged, normal_client, how, path, cut_off
):
    """Open 600 connections by HTTPS; a reader is cut off within a file of 1,000,000 bytes."""
    host.check_output("fail2ban-client unban --all")
    large = "/srv/webapp/current/source/webapp/static/large"
    afterwards(f"rm {large}")
    host.check_output(f"head --bytes=1000000 /dev/zero > {large}")
    outside(f"slowhttptest {how} -c 600 -r 200 -l 35 -u http://{name}{path} -d {tunnel}", 60)
    assert len([line for line in logged(path) if re.search(f'"{cut_off}"', line)]) > 500
    assert len(normal_client) > 30
    seconds = sorted(seconds for _, seconds in normal_client)
    assert seconds[int(len(seconds) * 0.95)] < 1
