"""Nobody is locked out, whatever the settings say; and nobody else gets in."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from runs import changed

testinfra_hosts = ["ansible://application"]
pytestmark = pytest.mark.usefixtures("forgiven")

PROJECT = Path(__file__).parents[3]
HOST = PROJECT / "molecule/hosts/host"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
NO_QUESTIONS = ["BatchMode=yes", "ConnectTimeout=10", "ControlPath=none", "IdentitiesOnly=yes"]
NO_QUESTIONS += ["LogLevel=ERROR", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
OPTIONS = [word for option in NO_QUESTIONS for word in ("-o", option)]
OPTIONS += ["-i", str(CACHE / "id_ed25519")]
SETTINGS = "/etc/ssh/sshd_config.d/10-slipway.conf"
GUARD = "/var/lib/slipway/guard"
GATEWAY = "10.127.0.1"  # as which this computer is seen
# A setting with which nobody gets in.
LOCKED = ("--extra-vars", '{"ssh_allow_users": ["nobody"]}')


def log_in(address: str, user: str, command: str, *more: str) -> subprocess.CompletedProcess:
    """Log in from this computer, over the network of the hosts, and run a command."""
    words = ["ssh", *OPTIONS, *more, f"{user}@{address}", command]
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def play(inventory: Path, *arguments: str, playbook: str = "access.yml") -> subprocess.Popen:
    """Start a playbook as a user would."""
    command = ["ansible-playbook", "--inventory", str(inventory), *arguments]
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.Popen(
        [*command, str(PROJECT / "playbooks" / playbook)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | settings,
    )


def ended(run: subprocess.Popen) -> tuple[int, str]:
    """Wait for the end of a playbook; return its exit code and what it said."""
    said, _ = run.communicate(timeout=280)
    return run.returncode, said


def inventory_of(folder: Path, name: str, groups: list[str], **variables: object) -> Path:
    """Write an inventory with one host that is reached over the network of the hosts.

    Its key is known, on port 22, as if a person had logged in once before.
    """
    folder.mkdir(exist_ok=True)
    (folder / "group_vars").symlink_to(PROJECT / "inventory/group_vars")
    scan = ["ssh-keyscan", "-t", "ed25519", str(variables["ansible_host"])]
    keys = subprocess.run(scan, capture_output=True, text=True, check=True).stdout
    (folder / "known_hosts").write_text(keys)
    known = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(CACHE / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={folder}/known_hosts",
    }
    members = {"hosts": {name: {}}}
    hosts = {name: known | variables}
    content = {"all": {"hosts": hosts, "children": dict.fromkeys(groups, members)}}
    (folder / "hosts.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def inventory(tmp_path, address, host):
    """Return an inventory of the server, as one group of everything."""
    groups = ["application", "database", "proxy"]
    return inventory_of(tmp_path / "mine", host.backend.host, groups, ansible_host=address)


def test_ssh_audit_finds_nothing_to_fail_or_to_warn_of(address):
    done = subprocess.run(["ssh-audit", "--json", address], capture_output=True, text=True)
    seen = json.loads(done.stdout)
    notes = [
        (kind, entry["algorithm"], level, note)
        for kind in ("kex", "key", "enc", "mac")
        for entry in seen[kind]
        for level, texts in entry["notes"].items()
        for note in texts
        if level != "info"
    ]
    assert notes == []
    assert seen["banner"]["protocol"] == "2.0"
    assert done.returncode == 0


@pytest.mark.parametrize("user", ["root", "admin"])
def test_a_good_password_does_not_let_anybody_in(host, address, user, tmp_path):
    host.check_output("echo %s:correct-horse | chpasswd", user)
    tell = tmp_path / "tell"
    tell.write_text("#!/bin/sh\necho correct-horse\n")
    tell.chmod(0o755)
    try:
        asked = subprocess.run(
            ["ssh", *OPTIONS, "-o", "BatchMode=no", "-o", "PubkeyAuthentication=no",
             f"{user}@{address}", "true"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env=os.environ | {"SSH_ASKPASS": str(tell), "SSH_ASKPASS_REQUIRE": "force"},
        )  # fmt: skip
    finally:
        host.check_output("usermod --password '*' %s", user)
    assert asked.returncode == 255
    assert "Permission denied (publickey)." in asked.stderr


@pytest.mark.parametrize("user", ["webapp", "postgres"])
def test_a_service_that_gives_itself_a_key_opens_no_way_in(host, address, user):
    """Its shell would refuse it, but a tunnel needs no shell, and no sandbox holds it."""
    home, key = host.user(user).home, (CACHE / "id_ed25519.pub").read_text().strip()
    give = f"umask 077; mkdir {home}/.ssh && echo '{key}' > {home}/.ssh/authorized_keys"
    host.check_output("runuser --user=%s -- sh -c %s", user, give)
    try:
        greeting = log_in(address, user, "", "-N", "-W", "127.0.0.1:22")
    finally:
        host.check_output("rm -r %s/.ssh", home)
    assert greeting.stdout == ""
    assert "Permission denied (publickey)." in greeting.stderr


def test_settings_that_lock_out_are_undone_at_once_and_told(host, address, inventory):
    before = host.file(SETTINGS).content_string
    code, said = ended(play(inventory, "--tags=ssh", *LOCKED))
    assert code == 2
    assert "Nobody could log in with the new settings, so the old ones are back." in said
    assert "Seen in: root, port 22:" in said
    assert "Permission denied" in said
    assert "Fix: " in said
    assert host.file(SETTINGS).content_string == before
    assert log_in(address, "root", "true").returncode == 0
    assert not host.file(GUARD).exists


def test_who_locks_themselves_out_is_not_banned_for_it(host, address, inventory, inside):
    """The first failed login bans here: that of the run itself, which so loses its connection."""
    banned = "fail2ban-client get sshd banip"
    inside(f"fail2ban-client set sshd delignoreip {GATEWAY}")
    inside("fail2ban-client set sshd maxretry 1")
    run = play(inventory, "--tags=ssh", *LOCKED, "--extra-vars", "ssh_guard_seconds=30")
    try:
        deadline = time.monotonic() + 60
        while (seen := inside(banned)) != GATEWAY and time.monotonic() < deadline:
            time.sleep(0.2)
        assert seen == GATEWAY
        code, _ = ended(run)
    finally:
        inside("systemctl restart fail2ban")
    assert code == 2
    assert inside(f"ls -d {GUARD} || true") == ""
    inside("timeout 30 sh -c 'until fail2ban-client ping; do sleep 0.2; done'")
    assert log_in(address, "root", "true").returncode == 0


def test_what_a_killed_run_left_is_undone_by_the_timer(
    host, address, inventory, kill, put_back_by_the_timer
):
    before = host.file(SETTINGS).content_string
    seconds = ("--extra-vars", "ssh_guard_seconds=30")
    run = play(inventory, "--tags=ssh", *LOCKED, *seconds)
    for _ in range(600):
        if host.file(SETTINGS).content_string != before:
            break
        time.sleep(0.1)
    kill(run)
    assert "AllowUsers nobody" in host.file(SETTINGS).content_string
    assert host.run("systemctl is-enabled slipway-guard.service").stdout.strip() == "enabled"
    deadline = time.monotonic() + 45
    while host.file(GUARD).exists and time.monotonic() < deadline:
        time.sleep(1)
    assert host.file(SETTINGS).content_string == before
    assert log_in(address, "root", "true").returncode == 0
    assert put_back_by_the_timer()
    assert not host.file(GUARD).exists
    assert not host.file("/etc/systemd/system/slipway-guard.service").exists


def test_a_setting_that_sshd_refuses_never_counts(host, inventory):
    before = host.file(SETTINGS).content_string
    code, said = ended(play(inventory, "--tags=ssh", "--extra-vars", "ssh_ciphers=rot13"))
    assert code == 2
    assert "did not take the new settings; the old ones are back." in said
    assert "Bad SSH2 cipher spec 'rot13'" in said
    assert host.file(SETTINGS).content_string == before


def test_a_settled_server_is_left_alone(inventory):
    code, said = ended(play(inventory))
    assert code == 0
    assert changed(said) == 0


def test_the_deploy_user_may_do_its_five_things_and_nothing_else(address):
    for allowed in ("list", "status", "logs"):
        assert log_in(address, "deploy", f"sudo slipway {allowed} webapp").returncode == 0
    done = log_in(address, "deploy", "sudo slipway restart webapp")
    assert done.stdout == "webapp was restarted.\n", done.stderr
    back = log_in(address, "deploy", "sudo slipway rollback webapp 20200101T000000Z-0000000")
    assert "There is no release 20200101T000000Z-0000000 of webapp" in back.stderr
    for refused in (
        "sudo -n true",
        "sudo -n python3 -c 0",
        "sudo -n systemctl restart nginx",
        "sudo -n -u postgres psql",
        "PYTHONPATH=/tmp sudo -n --preserve-env=PYTHONPATH slipway list webapp",
    ):
        assert log_in(address, "deploy", refused).returncode != 0, refused
    for strange in ("ssh", "../srv", "'web app'", "/etc", "--help=x"):
        done = log_in(address, "deploy", f"sudo slipway list {strange}")
        assert done.returncode not in (0, 255), strange


def test_the_deploy_user_cannot_change_what_it_runs_as_root(host):
    paths = "/usr/local/sbin/slipway /usr/local/lib/slipway /etc/webapp/operate.json /etc/sudoers.d"
    assert host.check_output(f"runuser -u deploy -- find {paths} -writable 2>/dev/null; true") == ""
    foreign = host.check_output(f"find {paths} ! -user root")
    assert foreign == ""


@pytest.fixture
def fresh(host, address):
    """Make a fresh host of the same Debian, for one test; return its name and its address."""
    name, suite = f"fresh-{host.backend.host}", host.system_info.codename
    loopback = address.replace("10.127.18.", "127.0.18.1")
    make = [HOST, "create", name, "--suite", suite, "--address", loopback, "--ssh-port", "2222"]
    subprocess.run([HOST, "destroy", name], check=True)
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    yield name, loopback.replace("127.0.", "10.127.")
    subprocess.run([HOST, "destroy", name], check=True)


def listening(name: str) -> set[int]:
    """Return the TCP ports that sshd of a test host listens on."""
    shown = subprocess.run([HOST, "exec", name, "ss", "-Hltnp"], capture_output=True, text=True)
    lines = [line.split() for line in shown.stdout.splitlines() if '"sshd"' in line]
    return {int(words[3].rpartition(":")[2]) for words in lines}


def test_a_port_of_ones_own_works_from_the_first_run_on(fresh, tmp_path):
    wanted = {"ssh_port": 2022, "ssh_permit_root": False}
    name, where = fresh
    mine = inventory_of(tmp_path / "mine", "fresh", [], ansible_host=where, **wanted)
    code, said = ended(play(mine, playbook="base.yml"))
    assert code == 0, said

    code, said = ended(play(mine))
    assert code == 0, said
    assert "root on port 22, by which this run came in, stays" in said
    assert listening(name) == {22, 2022}

    code, said = ended(play(mine))
    assert code == 0, said
    assert listening(name) == {2022}
    assert log_in(where, "root", "true", "-p", "22").returncode == 255
    assert log_in(where, "root", "true", "-p", "2022").returncode == 255
    assert log_in(where, "admin", "sudo id -un", "-p", "2022").stdout == "root\n"

    code, said = ended(play(mine))
    assert code == 0, said
    assert changed(said) == 0
