"""What strangers send: refused and logged, and everybody else is answered meanwhile."""

import concurrent.futures
import json
import re
import time

import pytest

testinfra_hosts = ["ansible://application"]

SMUGGLED = b"GET /version?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def logged(host):
    """Return a function: the lines of nginx's log that were written since, with a text in them."""
    before = int(host.check_output("wc --lines < /var/log/nginx/access.log"))

    def lines(text: str) -> list[str]:
        tail = host.check_output(f"tail --lines=+{before + 1} /var/log/nginx/access.log")
        return [line for line in tail.splitlines() if text in line]

    return lines


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
def test_no_request_is_smuggled(attacker, logged, headers, body):
    lines = ["POST /users HTTP/1.1", f"Host: {attacker.name}", *headers, "", ""]
    answer = attacker.send("\r\n".join(lines).encode() + body, seconds=3)
    assert re.match(rb"HTTP/1.1 (400|501)", answer)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"release" not in answer
    assert logged("smuggled") == []


def test_oversized_requests_are_refused_and_logged(attacker, logged):
    assert attacker.request("/", "X: " + "a" * 40_000)[0] == 400
    assert attacker.request("/" + "long" * 5_000)[0] == 414
    announced = ["Content-Length: 11000000", "Content-Type: application/json"]
    assert attacker.request("/users", *announced, method="POST")[0] == 413
    assert sorted(re.search(r'" (4\d\d) ', line)[1] for line in logged("")) == ["400", "413", "414"]


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static../app.py", "/static/%2e%2e/app.py",
     "/static/....//app.py", "/static/..%5capp.py", "/static//etc/passwd", "/static/%00",
     "/.git/config", "/.env", "/environment", "/app.py"],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_folder(attacker, path):
    status, answer = attacker.request(path)
    assert status in (400, 404)
    assert b"Flask" not in answer.split(b"\r\n\r\n", 1)[1]
    assert b"root:" not in answer


def test_an_unknown_host_gets_no_application(attacker):
    for host in ("evil.example.com", "127.0.0.1", attacker.address, "", "evil.example.com:443"):
        status, answer = attacker.request("/version", host=host or "%")
        assert status in (0, 400, 421), answer
        assert b"release" not in answer


def test_forged_forwarding_headers_change_nothing(host, attacker, logged):
    forged = [
        "X-Forwarded-For: 198.51.100.99",
        "X-Forwarded-Host: evil.example.com",
        "X-Forwarded-Proto: http",
        "X-Real-IP: 198.51.100.99",
        "Forwarded: for=198.51.100.99;host=evil.example.com",
    ]
    status, answer = attacker.request("/", *forged)
    assert status == 200
    assert b"evil.example.com" not in answer
    assert len(logged("GET / ")) == 1
    assert logged("198.51.100.99") == []


INJECTIONS = ["'; DROP TABLE users; --", "' OR '1'='1", "\\'; SELECT pg_sleep(9); --", "%' AND 1=1"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_a_field_is_only_text(attacker, sql, text):
    body = json.dumps({"name": text}).encode()
    status, answer = attacker.request(
        "/users", "Content-Type: application/json", method="POST", body=body
    )
    assert status == 201
    number = json.loads(answer.split(b"\r\n\r\n", 1)[1])["id"]
    assert sql(f"SELECT name FROM users WHERE id = {number}") == text


@pytest.mark.parametrize(
    "path",
    ["/users/1%20OR%201=1", "/users/1;DROP%20TABLE%20users", "/users/-1%20UNION%20SELECT%201",
     "/users?page=1%20OR%201=1", "/users?page=1;SELECT%20pg_sleep(9)", "/users?per_page='"],
)  # fmt: skip
def test_sql_in_a_url_is_refused(attacker, sql, path):
    began = time.monotonic()
    assert attacker.request(path)[0] in (400, 404)
    assert time.monotonic() - began < 5
    assert int(sql("SELECT count(*) FROM users")) > 0


@pytest.mark.parametrize(
    "how",
    ["-H -i 10", "-B -i 10 -s 8192 -t POST", "-X -r 200 -w 512 -y 1024 -n 5 -z 32 -k 3"],
    ids=["slow headers", "slow bodies", "slow readers"],
)
def test_slow_clients_slow_nobody_else(host, attacker, outside, address, name, how):
    """Open 600 connections, by HTTP: slowhttptest names no host in TLS, and gets no handshake."""
    host.check_output("fail2ban-client unban --all")
    outside(f"grep -q {name} /etc/hosts || echo {address} {name} >> /etc/hosts")
    slow = f"slowhttptest {how} -c 600 -r 200 -l 15 -u http://{name}/users -v 1"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        attack = pool.submit(outside, slow, 60)
        time.sleep(4)
        answers = []
        while not attack.done():
            began = time.monotonic()
            answers.append((attacker.request("/health/ready")[0], time.monotonic() - began))
            time.sleep(0.1)
    assert len(answers) > 20
    assert {status for status, _ in answers} == {200}
    assert sorted(seconds for _, seconds in answers)[int(len(answers) * 0.95)] < 1
