"""Code that an attacker runs within the application gets no further than the application may."""

import json
import shutil
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]

PROJECT = Path(__file__).parents[3]
OTHER = "sandbox_neighbour"
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

    def run(code: str) -> str:
        kind = "Content-Type: text/plain"
        status, answer = attacker.request("/hole", kind, method="POST", body=code.encode())
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


def test_a_setuid_program_makes_nobody_root(attack, treasures):
    run = "import subprocess; result = subprocess.run(['become-root', '-u'], capture_output=True)"
    assert "stdout=b'0" not in attack(run.replace("become-root", "/usr/local/bin/become-root"))


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


@pytest.mark.parametrize("command", ["unshare --user true", "su - root -c id", "dmesg", "reboot"])
def test_programs_gain_no_rights_either(attack, command):
    run = f"import subprocess; result = subprocess.run({command!r}, shell=True).returncode"
    assert attack(run) not in ("0", "None")


def test_it_sees_no_process_of_others(attack, treasures):
    see = "import os, glob; result = {os.stat(p).st_uid for p in glob.glob('/proc/[0-9]*')}"
    assert attack(f"{see} - {{os.getuid()}}") == "set()"
