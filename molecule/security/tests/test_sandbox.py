"""Code that an attacker runs within the application gets no further than the application may."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]

PROJECT = Path(__file__).parents[3]
OTHER = "sandbox_neighbour"
OUTSIDE, CA_PORT = "10.127.18.9", 14000
# What a hole in an application would be: it runs what it is sent.
HOLE = """
from flask import request


@app.post("/hole")
def hole():
    scope = {}
    try:
        exec(request.get_data(as_text=True), scope)
        return {"result": repr(scope.get("result"))}
    except BaseException as error:
        return {"result": f"{type(error).__name__}: {error}"}
"""


@pytest.fixture(scope="module")
def attack(attacker, playbook, tmp_path_factory):
    """Release an application with a hole; return a function that runs code in its worker."""
    source = tmp_path_factory.mktemp("hole") / "app"
    shutil.copytree(PROJECT / "app", source, ignore=shutil.ignore_patterns("instance", ".*cache"))
    with (source / "app.py").open("a") as file:
        file.write(HOLE)
    released = playbook("--extra-vars", f"site_app_source={source}", "--tags", "flask_app")
    assert released.returncode == 0, released.stdout

    def run(code: str, *headers: str) -> str:
        headers = ("Content-Type: text/plain", *headers)
        status, answer = attacker.request("/hole", *headers, method="POST", body=code.encode())
        assert status == 200
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])["result"]

    yield run
    assert playbook("--tags", "flask_app").returncode == 0


@pytest.fixture(scope="module")
def treasures(host):
    """Put things on the host that the application must not get at."""
    host.check_output("useradd --system --user-group %s", OTHER)
    host.check_output(
        "install -D --mode=0640 --group=%s /dev/null /etc/%s/environment", OTHER, OTHER
    )
    host.check_output("install --mode=4755 /usr/bin/id /usr/local/bin/become-root")
    host.check_output("systemd-run --unit=%s --uid=%s sleep 600", OTHER, OTHER)
    yield
    host.check_output("systemctl stop %s", OTHER)
    host.check_output("userdel %s && rm -r /etc/%s /usr/local/bin/become-root", OTHER, OTHER)


def test_the_attack_itself_works(attack):
    assert attack("result = 6 * 7") == "42"


@pytest.mark.parametrize(
    "path",
    ["/srv/webapp/current/source/app.py", "/srv/webapp/current/venv/x", "/etc/x", "/usr/local/x",
     "/var/cache/webapp/x", "/home/x", "/root/x", "/var/log/x", "/run/x"],
)  # fmt: skip
def test_it_writes_nowhere_but_to_its_state(attack, path):
    assert attack(f"open({path!r}, 'a')").split(":")[0] in (
        "OSError",
        "PermissionError",
        "FileNotFoundError",
    )


def test_it_may_write_to_its_state(attack):
    assert attack("result = open('/var/lib/webapp/x', 'w').write('y')") == "1"


@pytest.mark.parametrize(
    "path",
    [f"/etc/{OTHER}/environment", "/etc/webapp/secret_key", "/etc/shadow", "/root/.ssh",
     "/etc/ssh/ssh_host_ed25519_key", "/etc/slipway/tls/webapp/privkey.pem",
     "/srv/webapp/release.lock"],
)  # fmt: skip
def test_it_reads_nobody_elses_secrets(host, attack, treasures, path):
    assert host.file(path).exists
    read = "os.listdir" if host.file(path).is_directory else "open"
    assert "Error" in attack(f"import os; result = {read}({path!r})")


def test_a_setuid_program_makes_nobody_root(host, attack, treasures):
    """Outside the sandbox, it does."""
    who = "import subprocess; result = int(subprocess.check_output(['become-root', '-u']))"
    who = who.replace("become-root", "/usr/local/bin/become-root")
    assert attack(who) == str(host.user("webapp").uid)
    assert host.check_output("runuser -u nobody -- /usr/local/bin/become-root -u") == "0"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.setuid(0)",
        "import os; os.chmod(open('/var/lib/webapp/s', 'w').fileno(), 0o4755)",
        "import os; os.nice(-5)",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "import os; os.mknod('/var/lib/webapp/n', 0o60600, os.makedev(8, 0))",
    ],
)
def test_it_gains_no_rights(attack, code):
    assert attack(code).split(":")[0] in ("OSError", "PermissionError")


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("unshare --user true", "Operation not permitted"),
        ("su - root -c id", "Authentication failure"),
        ("dmesg", "Operation not permitted"),
        ("/usr/sbin/reboot", "Access denied"),
    ],
)
def test_programs_gain_no_rights_either(host, attack, command, refusal):
    """Outside the sandbox, anybody may have a namespace."""
    host.check_output("runuser -u nobody -- unshare --user true")
    run = f"import subprocess; done = subprocess.run({command!r}, shell=True, capture_output=True)"
    said = attack(f"{run}; result = done.returncode, done.stderr.decode()")
    code, error = ast.literal_eval(said)
    assert code not in (0, 126, 127)
    assert refusal in error


def test_it_connects_to_nobody_but_localhost(host, attack, address):
    """Root on the same host does."""
    connect = "import socket; socket.create_connection({}, 3).close()".format
    for target in ((OUTSIDE, CA_PORT), (address, 443)):
        host.check_output("python3 -c %s", connect(target))
        assert attack(connect(target)).split(":")[0] in ("PermissionError", "TimeoutError"), target
    assert attack(connect(("127.0.0.1", 443))) == "None"


def test_it_sees_no_process_of_others(attack, treasures):
    see = "import os, glob; result = {os.stat(p).st_uid for p in glob.glob('/proc/[0-9]*')}"
    assert attack(f"{see} - {{os.getuid()}}") == "set()"


def test_it_is_told_nothing_about_a_client_that_the_client_forged(attack, name):
    forged = ["X-Forwarded-Prefix: /evil", "Script-Name: /evil", "X-Request-ID: evil"]
    forged += [
        f"X-Forwarded-{what}: {value}"
        for what, value in {"For": "198.51.100.99", "Host": "evil.invalid", "Proto": "http"}.items()
    ]
    told = "from flask import request; result = request.remote_addr, request.url, *("
    told += "request.headers.getlist(f'X-Forwarded-{x}') for x in ('For', 'Host', 'Proto'))"
    seen = ast.literal_eval(attack(told))
    assert seen[1:] == (f"https://{name}/hole", [seen[0]], [name], ["https"])
    assert ast.literal_eval(attack(told, *forged)) == seen
    number = attack("from flask import request; result = request.headers['X-Request-ID']", *forged)
    assert re.fullmatch(r"'[0-9a-f]{32}'", number)
