"""nginx stands between slow, large and strange requests and the application."""

import contextlib
import gzip
import hashlib
import http.client
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

testinfra_hosts = ["ansible://proxy"]


@pytest.fixture
def address(variables) -> tuple[str, int]:
    """Return where a client connects to."""
    return variables["ansible_host"], 80


def test_nginx_runs_and_starts_at_boot(host):
    service = host.service("nginx")
    assert service.is_running
    assert service.is_enabled
    assert host.run("nginx -t").rc == 0


def test_nginx_is_locked_down(host):
    analyze = "systemd-analyze security --no-pager nginx.service"
    assert float(host.check_output(f"{analyze} | tail --lines=1").split()[6]) <= 3


def test_it_listens_where_it_was_told(host, knob):
    seen = host.check_output("ss --listening --tcp --numeric --no-header 'sport = :80'")
    told = knob("nginx_listen", ["80", "[::]:80"])
    addresses = {address if ":" in address else f"0.0.0.0:{address}" for address in told}
    assert {row.split()[3] for row in seen.splitlines()} == addresses


def test_the_running_limits_are_the_promised_ones(host, knob):
    dump = host.check_output("nginx -T 2>/dev/null")
    for directive, value in {
        "worker_connections": knob("nginx_worker_connections", 1024),
        "worker_rlimit_nofile": knob(
            "nginx_worker_files", 4 * knob("nginx_worker_connections", 1024)
        ),
        "client_max_body_size": f"{knob('nginx_max_body_size_mib', 10)}m",
        "client_body_timeout": f"{knob('nginx_client_timeout_seconds', 15)}s",
        "keepalive_timeout": f"{knob('nginx_keepalive_seconds', 65)}s",
        "keepalive": knob("nginx_upstream_keepalive", 16),
        r"server unix:\S+ max_fails=0": f"max_conns={knob('nginx_upstream_max_requests', 256)}",
        "proxy_connect_timeout": f"{knob('nginx_proxy_connect_timeout_seconds', 5)}s",
        "proxy_read_timeout": f"{knob('nginx_proxy_timeout_seconds', 65)}s",
        "expires": f"{knob('nginx_static_max_age_seconds', 3600)}s",
        "proxy_request_buffering": "on",  # a slow client holds no thread of the application
        "proxy_buffering": "on",
    }.items():
        assert re.search(rf"^\s*{directive} {value};", dump, re.MULTILINE)


def test_its_workers_are_nobody_else(host):
    listed = host.check_output("ps -C nginx -o user=,args=").splitlines()
    workers = [line.split()[0] for line in listed if "worker process" in line]
    masters = [line.split()[0] for line in listed if "master process" in line]
    assert set(workers) == {"www-data"}
    assert masters == ["root"]


def test_requests_reach_the_application(site):
    assert site.ask("/health/ready").status == 200


def test_a_maintenance_page_takes_the_place_of_the_site(host, site, app, knob):
    folder = knob("nginx_maintenance_path", "/var/lib/slipway/maintenance")
    host.check_output(f"mkdir -p {folder} && echo closed > {folder}/{app}.html")
    try:
        answer = site.ask("/users", {"name": "x"})
    finally:
        host.check_output(f"rm {folder}/{app}.html")
    assert (answer.status, answer.body) == (503, b"closed\n")
    seconds = str(knob("nginx_maintenance_retry_seconds", 300))
    assert answer.headers["Retry-After"] == seconds
    assert "Retry-After" not in site.ask("/health/ready").headers


def test_static_files_come_from_nginx(host, site, app, release, knob):
    static = knob("site_app_static", "webapp/static")
    folder = f"/srv/{app}/releases/{release}/source/{static}"
    name = host.check_output("ls %s | head -1", folder)
    answer = site.ask(f"/static/{name}")
    assert answer.status == 200
    assert answer.body == host.file(f"{folder}/{name}").content
    age = knob("nginx_static_max_age_seconds", 3600)
    assert answer.headers["Cache-Control"] == f"max-age={age}"


def test_without_a_static_folder_the_application_serves_its_own(playbook):
    done = playbook("--check", "--diff", "--tags", "nginx", "--extra-vars", "site_app_static=")
    assert done.returncode == 0
    assert "-        location /static/ {" in done.stdout
    assert "-            alias /" in done.stdout
    assert "+        location" not in done.stdout


def test_a_name_that_no_site_has_goes_to_the_site_with_the_underscore(playbook, neighbour):
    mine = {"site_domains": ["shop.example.org"], "tls_mode": "off"}
    blog = {"site_app_name": "blog", "site_domains": ["_"], "gunicorn_workers": 1}
    options = neighbour("application", mine=mine, **blog)
    done = playbook(*options, "--check", "--diff", "--tags", "nginx")
    assert done.returncode == 0
    after = "".join(re.findall(r"^[+ ](.*\n)", done.stdout, re.MULTILINE))
    assert re.search(r"^ +listen 80;\n(.*listen.*\n)? +server_name shop.example.org;", after, re.M)
    assert not re.search(r"^ +listen 80;\n(.*listen.*\n)? +server_name _;", after, re.M)


def test_static_files_stay_in_their_folder(site):
    for path in ("/static../app.py", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert site.ask(path).status in (400, 404)


def test_large_answers_are_compressed(site):
    for _ in range(40):
        assert site.ask("/users", {"name": "compress me"}).status == 201
    answer = site.ask("/users?per_page=100", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"compress me" in gzip.decompress(answer.body)


def test_the_server_does_not_tell_its_version(site):
    assert site.ask("/health/live").headers["Server"] == "nginx"


def test_security_headers_are_on_every_answer(host, site, knob, app, release):
    promised = {
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
    }
    static = knob("site_app_static", "webapp/static")
    folder = f"/srv/{app}/releases/{release}/source/{static}"
    name = host.check_output("ls %s | head -1", folder)
    for path in ("/", f"/static/{name}", "/nothing-here"):
        headers = site.ask(path).headers
        for header, value in knob("nginx_security_headers", promised).items():
            assert headers[header] == value
    assert "Strict-Transport-Security" not in headers


def test_without_a_name_for_any_an_unknown_name_gets_no_application(playbook):
    names = '{"site_domains": ["shop.example.org"], "tls_mode": "off"}'
    done = playbook("--check", "--diff", "--tags", "nginx", "--extra-vars", names)
    assert done.returncode == 0
    assert re.search(r"^-  +listen 80 default_server;\n", done.stdout, re.MULTILINE)
    assert re.search(r"^\+  +listen 80 default_server;\n(\+.*listen.*\n)?\+ +return 444;",
                     done.stdout, re.MULTILINE)  # fmt: skip


def test_a_body_over_the_limit_is_refused(site, knob):
    mib = knob("nginx_max_body_size_mib", 10)
    assert site.ask("/users", {"name": "x" * (mib * 2**20 + 1024)}).status == 413


def test_the_log_knows_the_client_the_application_and_the_time(host, site, app):
    site.ask("/health/live", headers={"User-Agent": "who-asks", "X-Forwarded-For": "8.8.8.8"})
    time.sleep(0.2)
    line = host.check_output("grep who-asks /var/log/nginx/access.log | tail -1")
    assert not line.startswith("8.8.8.8")
    took, answered, asked, ended = line.split()[-4:]
    assert 0 <= float(answered) <= float(took) + 0.001 < 20  # each is rounded
    assert asked == app
    assert abs(time.time() - float(ended)) < 20


def test_an_answer_in_the_place_of_the_application_is_its_own_in_the_log(host, site, app, knob):
    """And what it was not asked for is nobody's: its maintenance page, its static files."""
    page = f"{knob('nginx_maintenance_path', '/var/lib/slipway/maintenance')}/{app}.html"

    def logged(status: int, path: str = "/health/live") -> str:
        agent = f"who-answers-{time.monotonic_ns()}"
        assert site.ask(path, headers={"User-Agent": agent}).status == status
        time.sleep(0.2)
        return host.check_output(f"grep {agent} /var/log/nginx/access.log").split()[-2]

    try:
        host.check_output(f"mkdir -p {page.rpartition('/')[0]} && echo closed > {page}")
        assert logged(503) == "-"
        host.check_output(f"rm {page} && systemctl stop {app}.target")
        assert logged(502) == app
    finally:
        host.check_output(f"rm --force {page} && systemctl start {app}.target")
    deadline = time.monotonic() + 10
    while site.ask("/health/ready").status != 200:
        assert time.monotonic() < deadline
    assert logged(404, "/static/none") == "-"


def test_a_forged_host_does_not_reach_the_application(address):
    """Its redirect would lead there. All that can be forged: the scenario `security`."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    forged = {"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "https"}
    connection.request("GET", "/health//ready", headers=forged)
    answer = connection.getresponse()
    connection.close()
    assert answer.getheader("Location") == f"http://{address[0]}/health/ready"


def test_connections_to_gunicorn_are_kept(host, site, app):
    over = threading.Event()

    def ask():
        while not over.is_set():
            assert site.ask("/health/live").status == 200

    look = f"ss --unix --no-header state established | grep '/run/{app}/'"
    with ThreadPoolExecutor() as clients:
        asking = clients.submit(ask)
        try:
            looks = host.check_output(f"({look}); sleep 0.2; echo later; ({look})")
        finally:
            over.set()
        asking.result()
    first, later = ({row.split()[-1] for row in part.splitlines()}
                    for part in looks.split("later\n"))  # fmt: skip
    assert first & later  # the sockets of the same connections


def test_a_slow_client_takes_no_worker(site, address, workers):
    slow = []
    for _ in range(4 * len(workers)):
        connection = socket.create_connection(address, timeout=10)
        connection.sendall(
            b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        slow.append(connection)
    try:
        began = time.monotonic()
        assert [site.ask("/health/ready").status for _ in range(10)] == [200] * 10
        assert time.monotonic() - began < 10
    finally:
        for connection in slow:
            connection.close()


def test_a_silent_client_is_let_go(address, knob):
    limit = knob("nginx_client_timeout_seconds", 15)
    with socket.create_connection(address, timeout=limit + 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            connection.recv(4096)
        assert limit - 2 <= time.monotonic() - began <= limit + 5


def test_percent_encoding_arrives_as_it_was_sent(site):
    answer = site.ask("/users/%31")
    assert answer.status in (200, 404)
    assert site.ask("/users/caf%C3%A9").status == 404


def nginx_workers(host) -> set[int]:
    """Return the process ids of nginx's workers: a reload gives new ones."""
    return {process.pid for process in host.process.filter(user="www-data", comm="nginx")}


def server_within(seconds: float, site, shows_version: bool) -> bool:
    """Ask until nginx tells its version or no longer does: a reload takes a moment."""
    deadline = time.monotonic() + seconds
    while (site.ask("/health/live").headers["Server"] != "nginx") != shows_version:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_hand_edit_is_repaired_and_applied(host, site, playbook):
    host.check_output("sed -i 's/server_tokens off/server_tokens on/' /etc/nginx/nginx.conf")
    host.check_output("systemctl reload nginx")
    assert server_within(10, site, shows_version=True)
    done = playbook("--tags", "nginx", "--diff")
    assert re.search(r"changed=1 +unreachable=0 +failed=0", done.stdout)
    assert "+    server_tokens off;" in done.stdout
    assert server_within(10, site, shows_version=False)


def test_a_run_killed_before_the_reload_is_finished_by_the_next(host, playbook):
    """The stamp stands from before a file is written until what makes it true has succeeded."""
    step = "systemctl daemon-reload systemctl reload-or-restart nginx "
    step += "/etc/nginx/nginx.conf /etc/systemd/system/nginx.service.d/sandbox.conf"
    stamp = f"/var/lib/slipway/{hashlib.sha256(step.encode()).hexdigest()[:16]}"
    before = nginx_workers(host)
    assert before
    host.check_output("touch %s", stamp)
    done = playbook("--tags", "nginx")
    assert re.search(r"changed=1 +unreachable=0 +failed=0", done.stdout)
    assert not host.file(stamp).exists
    time.sleep(1)
    assert before.isdisjoint(nginx_workers(host))


def test_a_killed_nginx_comes_back(host, site):
    pid = host.check_output("cat /run/nginx.pid")
    host.check_output("kill -9 %s", pid)
    time.sleep(3)
    assert host.check_output("cat /run/nginx.pid") != pid
    assert site.ask("/health/live").status == 200


def test_its_log_is_rotated_and_written_on(host, site):
    assert host.service("logrotate.timer").is_enabled
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    time.sleep(1)
    assert site.ask("/health/live?rotated").status == 200
    assert "/health/live?rotated" in host.check_output("cat /var/log/nginx/access.log")
