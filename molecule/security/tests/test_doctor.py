"""Each check of the doctor: the thing is broken, and its line says so."""

import json
import re
import subprocess
import time

import pytest

testinfra_hosts = ["ansible://application"]

SECONDS = 15
TLS = "/etc/slipway/tls/doctor-test"
# In place of what this scenario's inventory says, which the doctor takes for placeholders.
FILLED_IN = {"tls_acme_email": "admin@slipway.invalid"}


class Report:
    """What the doctor said, and the exit code."""

    def __init__(self, done: subprocess.CompletedProcess):
        self.code, self.output = done.returncode, done.stdout + done.stderr
        documents = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
        assert len(documents) == 1, self.output
        self.worst = documents[0]["worst"]
        self.checks = documents[0]["hosts"][0]["checks"]

    def line(self, check: str) -> str:
        """Return state, words and fix of a check, as one text."""
        return "\n".join(
            f"{one['state']}: {one['said']} Fix: {one['fix']}"
            for one in self.checks
            if one["check"] == check
        )

    def __repr__(self) -> str:
        """Return what pytest prints when an assertion fails."""
        return "\n".join(f"{one['check']} {one['state']}: {one['said']}" for one in self.checks)


@pytest.fixture
def doctor(run_doctor):
    """Return a function that examines this host, with other variables if given."""
    return lambda **variables: Report(
        run_doctor("--extra-vars", json.dumps({"doctor_json": True, **variables}))
    )


@pytest.mark.parametrize(
    ("check", "variables", "said"),
    [
        ("inventory", {"gunicorn_threads": 1}, r"bad: gunicorn_threads is 1\..* Fix: set gunicorn"),
        ("system", {"preflight_release": "buster"}, r"bad: .* runs buster.* Fix: reinstall"),
        ("system", {"preflight_release": "noble"}, r"warn: .* runs noble: accepted"),
        ("memory", {"preflight_minimum_ram_mib": 1000000}, r"bad: .* MiB of memory\. Fix: resize"),
        ("disk", {"preflight_minimum_disk_mib": 1000000}, r"bad: .*too little free.* Fix: free"),
        ("apt", {"site_http_proxy": "http://127.0.0.1:9"}, r"bad: .*cannot reach 127\.0\.0\.1"),
        ("postgresql", {"postgresql_version": 14}, r"bad: .* cluster, but .* Fix: \./ops upgrade"),
        ("budget", {"preflight_ram_mib": 400}, r"bad: .* would need \d+ MiB.* Fix: lower gunicorn"),
        ("budget", {"postgresql_max_connections": 12}, r"bad: .* may open \d+ connections"),
        ("updates", {"doctor_lists_max_hours": 0}, r"warn: last looked for .* Fix: apt-get update"),
        ("dns", {"site_domains": ["nobody.invalid"]}, r"bad: nobody\.invalid does not resolve"),
        ("dns", {"site_domains": ["localhost"]}, r"warn: localhost is .*127\.0\.0\.1"),
        ("dns", {"site_domains": ["_"]}, r"off: site_domains names no domain"),
        ("secrets", {"flask_app_environment": {"API_KEY": "CHANGE_ME"}}, r"bad: .*nt\.API_KEY"),
        ("secrets", {"site_domains": ["shop.example.org"]}, r"bad: .*site_domains"),
    ],
)
def test_a_wrong_setting_or_a_small_host_shows_in_its_line(doctor, check, variables, said):
    report = doctor(**variables)
    assert re.search(said, report.line(check)), report


def test_what_is_well_is_said_to_be_ok(doctor, variables):
    report = doctor()
    lines = "inventory system memory disk apt clock programs postgresql budget ports site services"
    for check in lines.split():
        assert report.line(check).startswith("ok: "), report
    named = doctor(site_domains=[variables["ansible_host"]], **FILLED_IN)
    assert named.line("dns").startswith("ok: "), named
    assert named.line("secrets").startswith("ok: "), named


def test_a_slow_name_server_does_not_hold_it_up(doctor):
    """Asked for a hundred names, of which none can be known, it still ends within 15 s."""
    took = [SECONDS]
    while took[-1] >= SECONDS and len(took) < 5:  # one of them must have the machine for itself
        began = time.monotonic()
        report = doctor(site_domains=[f"no{number}.invalid" for number in range(100)])
        took.append(time.monotonic() - began)
    assert took[-1] < SECONDS, took
    assert report.line("dns").count("bad:") == 100


@pytest.fixture
def put_aside(host):
    """Return a function that runs a command now and another one when the test is over."""
    afterwards = []

    def run(now: str, after: str) -> None:
        afterwards.append(after)
        host.check_output(now)

    yield run
    for command in reversed(afterwards):
        host.check_output(command)


def test_a_full_disk_is_told(put_aside, doctor, host):
    free = int(host.check_output("df --output=avail -B1M /var | tail -1"))
    put_aside("fallocate --length 64MiB /var/tmp/ballast", "rm /var/tmp/ballast")
    report = doctor(preflight_minimum_disk_mib=free - 32)
    assert "too little free disk" in report.line("disk")
    assert report.code == 2


def test_a_wrong_clock_is_told(doctor):
    """A container cannot have a clock of its own: the tolerance is less than the way takes."""
    report = doctor(preflight_clock_tolerance_seconds=-1)
    assert re.search(r"bad: The clock of .* off.* Fix: .*timedatectl", report.line("clock"))


def test_a_foreign_program_on_our_port_is_told(put_aside, doctor):
    put_aside("systemd-run --unit squatter python3 -m http.server 5055", "systemctl stop squatter")
    report = doctor(gunicorn_bind="0.0.0.0:5055")
    assert re.search(r"bad: .*python3.* on port 5055", report.line("programs"))


def test_a_busy_apt_is_told_at_once(put_aside, doctor):
    hold = "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f, 2)"
    put_aside(
        f'systemd-run --unit locker python3 -c "{hold}; time.sleep(120)"', "systemctl stop locker"
    )
    assert re.search(r"bad: apt is in use .*python3.* Fix: wait", doctor().line("apt"))


def test_a_stopped_nginx_is_told(put_aside, doctor):
    put_aside("systemctl stop nginx", "systemctl start nginx")
    report = doctor()
    assert re.search(r"bad: 80 does not answer .* Fix: systemctl status", report.line("ports"))
    assert "bad: " in report.line("site")
    assert report.code == 2


def test_a_stopped_application_is_told(put_aside, doctor, app):
    put_aside(f"systemctl stop {app}.target", f"systemctl start {app}.target")
    report = doctor()
    assert re.search(r"bad: .* answers 502.* Fix: ", report.line("site"))
    assert report.line("ports").startswith("ok: ")


def make_certificate(days: int) -> str:
    """Return the command that makes a certificate, signed by another one, for so many days."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    return (
        f"mkdir -p {TLS} && cd {TLS} && openssl req -x509 {key} -keyout ca.key -out ca.pem"
        f" -subj /CN=ca -days 90 && openssl req {key} -keyout key.pem -out request.pem"
        f" -subj /CN=shop && openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key"
        f" -CAcreateserial -days {days} -out fullchain.pem"
    )


@pytest.mark.parametrize(
    ("days", "line"),
    [
        (60, r"ok: doctor-test is good for (59|60) days"),
        (15, r"warn: doctor-test expires in 1[45] days\. Fix: "),
        (3, r"bad: doctor-test expires in [23] days\. Fix: "),
    ],
)
def test_a_certificate_near_its_end_is_told(put_aside, doctor, days, line):
    put_aside(make_certificate(days), f"rm -r {TLS}")
    assert re.search(line, doctor().line("certificate"))


def test_the_bounds_of_a_certificate_are_yours(put_aside, doctor):
    put_aside(make_certificate(60), f"rm -r {TLS}")
    report = doctor(doctor_certificate_warn_days=80, doctor_certificate_bad_days=70)
    assert re.search(r"bad: doctor-test expires in (59|60) days", report.line("certificate"))
    elsewhere = doctor(doctor_certificates_folder="/nowhere", doctor_timeout_seconds=2)
    assert elsewhere.line("certificate").startswith("off: ")


def test_a_waiting_security_update_is_told(put_aside, doctor, host):
    """For a moment dpkg believes that a package is older than the archive's.

    Where a real one waits for security already, it is told, and the others are not.
    """
    status = "/var/lib/dpkg/status"
    older = r"/^Package: openssl$/,/^$/s/^Version: .*/Version: 3.0.0-0/"
    put_aside(f"cp -a {status} /root/status", f"cp -a /root/status {status}; rm /root/status")
    host.check_output("sed -i %s %s", older, status)
    line = doctor().line("updates")
    assert re.search(r"warn: \d+ security updates wait: \w|ok: .*, [1-9]\d* others", line)


def test_a_needed_reboot_is_told(put_aside, doctor):
    names = "/run/reboot-required /run/reboot-required.pkgs"
    put_aside(f"touch {names}; echo linux-image-amd64 >> /run/reboot-required.pkgs", f"rm {names}")
    line = doctor().line("reboot")
    assert re.search(r"warn: needed \(an upgrade .*linux-image-amd64\)\. Fix: reboot", line)


def test_a_program_with_a_replaced_library_is_told(put_aside, doctor):
    library = "/usr/local/lib/slipway-test.so"
    put_aside(
        f"cp $(readlink -f /lib/*/libz.so.1) {library}"
        f" && systemd-run --unit old-library --setenv LD_PRELOAD={library} sleep 600"
        f" && sleep 1 && rm {library}",
        "systemctl stop old-library",
    )
    assert re.search(r"warn: .*with a replaced library: .*sleep", doctor().line("reboot"))


def test_a_failed_service_is_told(put_aside, doctor):
    put_aside("systemd-run --unit doomed false; sleep 1", "systemctl reset-failed doomed")
    assert re.search(r"warn: failed: doomed\.service\. Fix: ", doctor().line("services"))


def test_a_missing_firewall_is_told(put_aside, doctor, host):
    """First with a table that drops what it does not know, then without any that does."""
    rules = "ct state established,related accept; iif lo accept; tcp dport {22, 80, 443} accept;"
    chain = f"chain input {{ type filter hook input priority 10; policy drop; {rules} }};"
    put_aside(f"nft 'table inet doctor_test {{ {chain} }}'", "nft delete table inet doctor_test")
    assert re.search(r"ok: .*inet doctor_test input", doctor().line("firewall"))
    saved = "/run/doctor-rules"
    put_aside(f"nft list ruleset > {saved}", f"nft flush ruleset; nft --file {saved}")
    host.check_output("nft flush ruleset")
    assert re.search(r"bad: no input chain .* Fix: ", doctor().line("firewall"))


def test_the_exit_code_tells_the_worst_state(put_aside, doctor, variables):
    rules = "ct state established,related accept; iif lo accept; tcp dport {22, 80, 443} accept;"
    chain = f"chain input {{ type filter hook input priority 10; policy drop; {rules} }};"
    put_aside(f"nft 'table inet doctor_test {{ {chain} }}'", "nft delete table inet doctor_test")
    mine = {"site_domains": [variables["ansible_host"]], "doctor_ports": [], **FILLED_IN}
    put_aside("touch /run/reboot-required", "rm /run/reboot-required")
    warned = doctor(**mine)
    assert (warned.worst, warned.code) == ("warn", 1), warned
    bad = doctor(site_domains=["nobody.invalid"])
    assert (bad.worst, bad.code) == ("bad", 2), bad
