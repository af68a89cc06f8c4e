"""No secret gets out: not by what Ansible prints, nor by anything that another user can read."""

import json
import re
import subprocess

import pytest

testinfra_hosts = ["ansible://application"]


@pytest.fixture(scope="module")
def secrets(host) -> dict[str, str]:
    """Return every secret of the host: what was made there, and what the operator brought."""
    settings = json.loads(host.file("/etc/slipway/backup/settings.json").content_string)
    found = {
        "secret key": host.check_output("cat /etc/webapp/secret_key"),
        "from the vault": host.check_output("sed -n 's/^API_TOKEN=//p' /etc/webapp/environment"),
        "of backups": host.check_output("cat %s", settings["repositories"][0]["password_file"]),
        "of the certificate": host.check_output("sed -n 2p /etc/slipway/tls/webapp/privkey.pem"),
    }
    found = {name: secret.strip('"') for name, secret in found.items()}
    assert all(len(secret) >= 40 for secret in found.values())
    return found


@pytest.fixture(scope="module")
def talkative_run(host, playbook):
    """Release again with all that Ansible has to say, while the host's process table is watched."""
    watch = "while :; do ps -ewwo args >> /root/processes; sleep 0.05; done"
    host.check_output("systemd-run --unit=watch-processes sh -c %s", watch)
    changed = [
        "--extra-vars",
        "flask_app_warm_up_requests=21",
        "--extra-vars",
        "gunicorn_threads=3",
    ]
    done = playbook("-vvv", "--diff", *changed)
    host.check_output("systemctl stop watch-processes")
    assert done.returncode == 0
    assert "phases | Build it" in done.stdout
    yield done.stdout + done.stderr
    host.check_output("rm /root/processes")
    assert playbook().returncode == 0


def test_the_application_has_them(host, secrets, release):
    environment = host.file(f"/srv/webapp/releases/{release}/environment").content_string
    assert all(secrets[name] in environment for name in ("secret key", "from the vault"))


def test_ansible_prints_none_however_much_it_is_asked(talkative_run, secrets):
    assert [name for name, secret in secrets.items() if secret in talkative_run] == []


def test_a_dry_run_prints_none(playbook, secrets):
    dry = playbook("--check", "--diff", "-vvv", "--extra-vars", "flask_app_trusted_proxies=2")
    assert dry.returncode == 0
    assert [name for name, secret in secrets.items() if secret in dry.stdout + dry.stderr] == []


def test_the_journal_has_none(host, talkative_run, secrets):
    for name, secret in secrets.items():
        assert host.run("journalctl --no-pager --all | grep -F -e %s", secret).stdout == "", name


def test_no_command_line_has_any(host, talkative_run, secrets):
    assert "gunicorn" in host.check_output("cat /root/processes")
    for name, secret in secrets.items():
        assert host.run("grep -F -e %s /root/processes", secret).stdout == "", name


def test_nobody_else_reads_one_from_a_process_or_a_file(host, talkative_run, secrets):
    places = "/ $(findmnt --raw --noheadings --output TARGET --types tmpfs)"
    find = f"find {places} -xdev -type f -size -9M -readable 2>/dev/null; ls /proc/[0-9]*/environ"
    read = f"({find}) | tr '\\n' '\\0' | xargs -0 grep -l -F -e \"$0\" 2>/dev/null"
    for name, secret in secrets.items():
        seen = host.run("runuser -u nobody -- sh -c %s %s", read, secret).stdout.split()
        assert seen == [], name


def test_root_would_find_them_there(host, secrets):
    """Without this, the search above could be one that finds nothing."""
    places = "/srv/webapp/releases /etc/webapp /var/backups/slipway /etc/letsencrypt"
    search = f"grep -rl -F -e %s {places}"
    for secret in secrets.values():
        assert host.check_output(search, secret)


@pytest.mark.parametrize("given", ["none", "wrong"])
@pytest.mark.parametrize("form", ["file", "value"])
def test_without_the_password_of_the_vault_nothing_is_changed(playbook, tmp_path, form, given):
    """The whole file is encrypted, or one value in it."""
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(name)
    lock = ["ansible-vault", "--vault-password-file", str(tmp_path / "right")]
    secrets = tmp_path / "secrets.yml"
    if form == "file":
        secrets.write_text("flask_app_environment: {API_TOKEN: hidden}\n")
        lock.insert(1, "encrypt")
        subprocess.run([*lock, secrets], check=True)
    else:
        lock.insert(1, "encrypt_string")
        value = subprocess.run([*lock, "hidden"], check=True, capture_output=True, text=True).stdout
        indented = value.replace("\n ", "\n    ")
        secrets.write_text(f"flask_app_environment:\n  API_TOKEN: {indented}\n")
    options = ["--vault-password-file", str(tmp_path / "wrong")] if given == "wrong" else []
    done = playbook("--extra-vars", f"@{secrets}", *options)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert len(re.findall(r"^\[ERROR\]: ", said, re.MULTILINE)) == 1
    reason = "no vault secrets found" if given == "none" else "Decryption failed"
    assert reason in said
    assert form == "file" or "Fix: give the vault's password" in said
    assert re.findall(r"changed=[1-9]", said) == []
