"""Who may log in comes in with a key, and may do there what the inventory says."""

import subprocess

import pytest

testinfra_hosts = ["ansible://all"]


@pytest.fixture
def ssh(variables):
    """Return a function that logs in anew and runs a command."""
    key = variables.get("ansible_private_key_file") or variables["ansible_ssh_private_key_file"]
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["BatchMode=yes", "IdentitiesOnly=yes", "ControlPath=none", "ConnectTimeout=20"]

    def run(user: str, command: str, *more: str) -> subprocess.CompletedProcess:
        words = ["ssh", "-i", key, "-p", str(variables["ansible_port"])]
        words += [word for option in options for word in ("-o", option)]
        words += [*more, f"{user}@{variables['ansible_host']}", command]
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run


@pytest.fixture
def sshd(host):
    """Return what the running sshd would do for a user, in its own words."""

    def settings(user: str) -> dict[str, str]:
        said = host.check_output("/usr/sbin/sshd -T -C user=%s,host=here,addr=192.0.2.1", user)
        return dict(line.partition(" ")[::2] for line in said.splitlines())

    return settings


@pytest.fixture
def admin(knob) -> str:
    """Return the name of the admin."""
    return knob("ssh_admin_user", "admin")


@pytest.fixture
def deploy(knob) -> str:
    """Return the name of the deploy user."""
    return knob("ssh_deploy_user", "deploy")


def test_the_admin_logs_in_with_a_key_and_may_do_everything(ssh, admin):
    assert ssh(admin, "sudo -n id -un").stdout == "root\n"


def test_the_deploy_user_logs_in_with_a_key_and_may_not_do_everything(ssh, deploy):
    assert ssh(deploy, "id -un").stdout == f"{deploy}\n"
    assert "password is required" in ssh(deploy, "sudo -n id -un").stderr


def test_root_logs_in_with_a_key_while_the_inventory_says_so(ssh):
    assert ssh("root", "id -un").stdout == "root\n"


def test_a_password_is_never_asked_for(ssh, admin):
    for user in ("root", admin):
        refused = ssh(user, "true", "-o", "PubkeyAuthentication=no")
        assert refused.returncode == 255
        assert "Permission denied (publickey)." in refused.stderr


def test_no_user_of_ours_has_a_password(host, admin, deploy):
    for user in (admin, deploy):
        assert host.user(user).password in ("*", "!")


def test_the_deploy_user_cannot_add_a_key_to_its_own(sshd, host, deploy):
    assert sshd(deploy)["authorizedkeysfile"] == "/etc/ssh/authorized_keys.d/%u"
    keys = host.file(f"/etc/ssh/authorized_keys.d/{deploy}")
    assert (keys.user, keys.mode) == ("root", 0o644)


def test_the_deploy_user_has_no_tunnel(ssh, deploy):
    refused = ssh(deploy, "", "-N", "-W", "127.0.0.1:22")
    assert refused.returncode != 0
    assert "forwarding failed" in refused.stderr
    assert refused.stdout == ""


def test_the_admin_has_tunnels_as_the_inventory_says(ssh, admin, knob):
    greeting = ssh(admin, "", "-N", "-W", "127.0.0.1:22")
    assert greeting.stdout.startswith("SSH-2.0") == knob("ssh_allow_tunnels", True)


def test_only_modern_algorithms_are_left(sshd, knob):
    settings = sshd("root")
    assert settings["hostkeyalgorithms"] == "ssh-ed25519"
    for kind, left_over in (("kexalgorithms", "nistp"), ("ciphers", "cbc"), ("macs", "sha1")):
        assert left_over not in settings[kind]
    for kind, name in (("kexalgorithms", "kex_algorithms"), ("ciphers",) * 2, ("macs",) * 2):
        assert settings[kind] == knob(f"ssh_{name}", settings[kind])


def test_the_limits_of_a_connection_are_as_promised(sshd, knob):
    settings = sshd("root")
    promised = {
        "maxauthtries": knob("ssh_max_auth_tries", 6),
        "maxsessions": knob("ssh_max_sessions", 10),
        "logingracetime": knob("ssh_login_grace_seconds", 30),
        "clientaliveinterval": knob("ssh_client_alive_seconds", 60),
        "clientalivecountmax": 2,
    }
    assert {name: int(settings[name]) for name in promised} == promised
    assert (settings["tcpkeepalive"], settings["compression"]) == ("no", "no")


def test_who_may_log_in_is_who_the_inventory_names(host, knob):
    allowed = host.check_output("/usr/sbin/sshd -T").splitlines()
    named = [line.split()[1] for line in allowed if line.startswith("allowusers ")]
    assert named == knob("ssh_allow_users", [])


def test_nothing_waits_for_a_confirmation(host):
    assert not host.file("/var/lib/slipway/guard").exists
    assert not host.file("/etc/systemd/system/slipway-guard.service").exists
