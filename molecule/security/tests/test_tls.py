"""Users come by HTTPS, with a certificate of a real CA, and nothing of it ever stops the site."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from urllib.parse import urlsplit

import pytest
from runs import changed

testinfra_hosts = ["ansible://proxy"]

ROOT = "/etc/pebble/root.pem"
LINEAGE = "/etc/letsencrypt/renewal/webapp.conf"


@pytest.fixture
def curl(outside, address):
    """Return a function that asks for a URL from outside, trusting nobody but the CA."""

    def run(url: str, *options: str, seconds: int = 20):
        host = url.split("/")[2]
        names = " ".join(f"--resolve '{host}:{port}:{address}'" for port in (80, 443))
        quoted = " ".join(f"'{option}'" for option in options)
        command = f"curl --silent --show-error --max-time {seconds} --cacert {ROOT}"
        return outside(f"{command} {names} {quoted} '{url}'")

    return run


@pytest.fixture
def served(outside, address, name):
    """Return a function: issuer, serial and names of the certificate that a name is served with."""

    def look(of: str = name) -> str:
        return outside(
            f"openssl s_client -connect {address}:443 -servername {of} </dev/null 2>/dev/null | "
            "openssl x509 -noout -issuer -serial -ext subjectAltName"
        ).stdout

    return look


@pytest.fixture
def apply(playbook):
    """Return a function that runs the roles tls and nginx as a user would."""

    def run(tags: str = "tls,nginx", **variables) -> str:
        done = playbook("--tags", tags, "--extra-vars", json.dumps(variables))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def put_back(apply):
    """Undo what a test changes, and see that it can be undone."""
    yield
    apply()


@pytest.fixture
def lead_astray(host, name):
    """Return a function that lets a name lead elsewhere, or nowhere, until the test is over."""
    before = host.file("/etc/hosts").content_string
    write = "printf %%s %s > /etc/hosts"  # in place: podman has bound this file

    def change(of: str = name, to: str = "") -> None:
        lines = [line for line in before.splitlines() if name not in line]
        lines += [f"{to} {of}"] if to else []
        host.check_output(write, "\n".join(lines) + "\n")

    yield change
    host.check_output(write, before)


@pytest.fixture
def unissued(host):
    """Forget the certificate, as if this were the first run."""
    host.check_output("systemctl stop nginx")
    host.check_output(
        "rm -rf /etc/letsencrypt/live /etc/letsencrypt/archive /etc/letsencrypt/renewal/*.conf "
        "/etc/slipway/tls/webapp*"
    )


@pytest.fixture
def frozen_ca(outside):
    """Let the CA take connections and never answer."""
    assert outside("systemctl kill --signal STOP pebble").returncode == 0
    yield
    outside("systemctl kill --signal CONT pebble")


def test_https_is_trusted_and_speaks_http_2(curl, name):
    done = curl(f"https://{name}/health/ready", "--write-out", " %{http_version} %{http_code}")
    assert done.stdout.endswith(" 2 200"), done.stderr


def test_http_leads_to_https(curl, name):
    head = curl(f"http://{name}/users?page=2", "--head").stdout
    assert head.startswith("HTTP/1.1 301 ")
    assert f"Location: https://{name}/users?page=2\r\n" in head
    assert "Strict-Transport-Security" not in head


def test_an_unknown_name_gets_no_application_by_http(curl, address):
    for unknown in ("unknown.example.org", address):
        done = curl(f"http://{unknown}/", "--write-out", "%{http_code}")
        assert done.returncode in (52, 56)  # closed, or reset, without a word
        assert done.stdout == "000"


def test_an_unknown_name_gets_no_certificate(curl, address):
    for unknown in ("unknown.example.org", address):
        done = curl(f"https://{unknown}/", "--insecure", "--write-out", "%{http_code}")
        assert done.returncode == 35
        assert "unrecognized name" in done.stderr
        assert done.stdout == "000"


def test_an_unknown_host_behind_a_known_certificate_gets_no_application(curl, name):
    for version in ("--http1.1", "--http2"):
        done = curl(f"https://{name}/health/live", version, "--header", "Host: other.example.org")
        # Closed or reset without a word; nginx since 1.25 says that the name is another's.
        assert done.returncode in (52, 56, 92) or "421 Misdirected Request" in done.stdout
        assert '"status"' not in done.stdout


def test_only_tls_1_2_and_1_3_are_spoken(outside, address, name):
    def taken(option: str) -> bool:
        command = f"openssl s_client -connect {address}:443 -servername {name} {option}"
        return outside(f"{command} -cipher ALL:@SECLEVEL=0 </dev/null").returncode == 0

    spoken = {version: taken(f"-{version}") for version in ("tls1", "tls1_1", "tls1_2", "tls1_3")}
    assert spoken == {"tls1": False, "tls1_1": False, "tls1_2": True, "tls1_3": True}


def test_ciphers_have_forward_secrecy_and_seal_their_records(outside, address, name):
    command = f"nmap -Pn -p 443 --script ssl-enum-ciphers --script-args tls.servername={name}"
    said = outside(f"{command} {address}", seconds=300).stdout
    ciphers = set(re.findall(r"(TLS_\w+)", said))
    assert "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" in ciphers
    good = r"TLS_((ECDHE_ECDSA|ECDHE_RSA|AKE)_WITH_)?(AES_\d+_GCM|CHACHA20_POLY1305)_SHA\d+"
    assert [cipher for cipher in ciphers if not re.fullmatch(good, cipher)] == []


def test_browsers_are_told_to_come_by_https_only(curl, knob, name):
    head = curl(f"https://{name}/health/live", "--head", "--http1.1").stdout
    seconds = knob("nginx_hsts_max_age_seconds", 31536000)
    assert head.count(f"Strict-Transport-Security: max-age={seconds}\r\n") == 1


def test_security_headers_are_there_once(curl, host, name):
    for path in ("/", "/static/style.css", "/nothing-here"):
        head = curl(f"https://{name}{path}", "--head", "--http1.1").stdout
        for header in ("Referrer-Policy", "X-Content-Type-Options", "X-Frame-Options"):
            assert head.count(f"\n{header}: ") == 1, (path, header, head)
        assert "Server: nginx\r\n" in head


def test_the_application_knows_that_it_is_asked_by_https(curl, name):
    head = curl(f"https://{name}/health//ready", "--head", "--http1.1").stdout
    assert f"Location: https://{name}/health/ready\r\n" in head


def test_a_page_of_another_site_gets_nothing_compressed(curl, name):
    def encoding(*headers: str) -> bool:
        options = [part for header in headers for part in ("--header", header)]
        head = curl(
            f"https://{name}/", "--http1.1", "--dump-header", "-", "--output", "/dev/null",
            "--header", "Accept-Encoding: gzip", *options,
        ).stdout  # fmt: skip
        assert " 200 OK" in head
        return "Content-Encoding: gzip" in head

    assert encoding()
    assert encoding("Sec-Fetch-Site: none")
    assert encoding(f"Referer: https://{name}/users")
    assert not encoding("Sec-Fetch-Site: cross-site")
    assert not encoding("Referer: https://elsewhere.example.org/")
    assert not encoding(f"Referer: https://{name}.elsewhere.example.org/")


def test_nginx_has_no_complaint_about_its_settings(host):
    said = host.run("nginx -t")
    assert said.rc == 0
    assert "warn" not in said.stderr


def test_certificates_are_renewed_by_a_timer(host):
    assert host.service("certbot.timer").is_enabled
    assert host.service("certbot.timer").is_running


def test_the_key_is_for_root_alone(host):
    for file in ("/etc/slipway/tls/webapp/privkey.pem", "/etc/letsencrypt/live/webapp/privkey.pem"):
        real = host.file(host.check_output("realpath %s", file))
        assert (real.user, real.mode) == ("root", 0o600)


@pytest.mark.usefixtures("unissued", "put_back")
def test_without_dns_the_first_run_succeeds_and_names_the_wrong_address(
    lead_astray, apply, served, curl, variables, name, address
):
    wrong = urlsplit(variables["tls_acme_directory_url"]).hostname
    lead_astray(to=wrong)
    said = apply()
    assert f"{name} leads to {wrong}, where port 80 does not answer" in said
    assert f"its own addresses are {address}" in said
    assert "Fix: correct the record" in said
    assert f"DNS:{name}" in served()
    assert "Pebble" not in served()
    assert curl(f"https://{name}/health/ready", "--insecure").returncode == 0

    lead_astray()
    said = apply()
    assert f"{name} has no address in DNS" in said
    assert changed(said) == 0

    lead_astray(to=address)
    said = apply(tags="tls")
    assert changed(said) == 1
    assert "Pebble" in served()
    assert curl(f"https://{name}/health/ready").returncode == 0


class Client(threading.Thread):
    """One browser, which never stops asking and remembers what went wrong."""

    def __init__(self, address: str, name: str, root: str, keep: bool, over: threading.Event):
        super().__init__(daemon=True)
        self.address, self.name, self.keep, self.over = address, name, keep, over
        self.context = ssl.create_default_context(cadata=root)
        self.connection: http.client.HTTPSConnection | None = None
        self.answered, self.rested, self.errors, self.serials = 0, 0, [], set()

    def connect(self) -> None:
        """Open a connection to the address, and see to it that it is the name's."""
        raw = socket.create_connection((self.address, 443), timeout=20)
        self.connection = http.client.HTTPSConnection(self.name, context=self.context)
        self.connection.sock = self.context.wrap_socket(raw, server_hostname=self.name)
        self.serials.add(self.connection.sock.getpeercert()["serialNumber"])

    def ask(self) -> int:
        """Ask once, on a kept connection if there is one."""
        if self.connection is None or self.connection.sock is None:
            self.connect()
        self.connection.request("GET", "/users?per_page=2")
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def close(self) -> None:
        """Forget the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def run(self) -> None:
        """Ask until it is over."""
        while not self.over.is_set():
            kept = self.connection is not None
            try:
                status = self.ask()
                self.answered += 1
                self.errors += [] if status == 200 else [status]
                if not self.keep:
                    self.close()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A server may close a connection that rests, and a client then asks again on a new
                # one (RFC 9112, 9.3.1), as browsers do. Anything else is a lost request.
                rested = isinstance(error, ConnectionError | http.client.RemoteDisconnected)
                self.rested += kept and rested
                self.errors += [] if kept and rested else [repr(error)]
            time.sleep(0.02)
        self.close()


@pytest.fixture
def browsers(outside, variables, name):
    """Let four browsers ask, two of them on kept connections."""
    over, root = threading.Event(), outside(f"cat {ROOT}").stdout
    clients = [
        Client(variables["ansible_host"], name, root, number % 2 == 0, over) for number in range(4)
    ]
    for client in clients:
        client.start()
    yield clients
    over.set()
    for client in clients:
        client.join(30)


@pytest.fixture
def due(host):
    """Let certbot think that every certificate ends soon, until the test is over."""
    host.check_output("sed -i '1i renew_before_expiry = 10000 days' %s", LINEAGE)
    yield
    host.check_output("sed -i '/^renew_before_expiry/d' %s", LINEAGE)


@pytest.mark.usefixtures("due")
def test_a_renewal_by_the_timer_reaches_users_and_loses_no_request(host, served, browsers):
    time.sleep(2)
    before = served()
    host.check_output("systemctl start certbot.service")
    deadline = time.monotonic() + 10
    while served() == before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert served() != before
    time.sleep(2)
    assert [client.errors for client in browsers] == [[], [], [], []]
    assert all(client.rested <= client.keep for client in browsers)  # one reload, one end
    assert sum(client.answered for client in browsers) > 200
    for client in browsers:
        assert len(client.serials) == 2, client.serials


@pytest.mark.usefixtures("put_back")
def test_a_domain_more_or_less_is_another_certificate(apply, served, curl, name):
    assert "www." not in served()
    said = apply(site_domains=[name, f"www.{name}"])
    assert re.search(r"changed=[12] +unreachable=0 +failed=0", said)
    for _ in range(20):  # the old workers of nginx leave when they are done
        if "www." in served():
            break
        time.sleep(0.5)
    for each in (name, f"www.{name}"):
        assert curl(f"https://{each}/health/ready").returncode == 0
    apply()
    assert "www." not in served()
    assert curl(f"https://{name}/health/ready").returncode == 0


@pytest.mark.usefixtures("put_back")
def test_a_name_that_is_not_ready_does_not_hold_up_the_others(
    lead_astray, apply, served, curl, name, address
):
    lead_astray(to=address)
    said = apply(site_domains=[f"later.{name}", name])
    assert f"later.{name} has no address in DNS" in said
    assert "webapp serves on with the certificate that it has" in said
    assert "later." not in served()
    assert curl(f"https://{name}/health/ready").returncode == 0


@pytest.mark.usefixtures("frozen_ca")
def test_while_the_ca_is_down_the_site_serves_on_and_it_is_told(outside, apply, curl, name):
    said = apply(site_domains=[name, f"www.{name}"])
    assert "The CA does not answer" in said
    assert "webapp serves on with the certificate that it has" in said
    assert "Fix: run playbooks/issue-certificates.yml once it is back." in said
    assert curl(f"https://{name}/health/ready").returncode == 0

    outside("systemctl kill --signal CONT pebble")
    apply()
    assert curl(f"https://{name}/health/ready").returncode == 0


@pytest.mark.usefixtures("put_back", "frozen_ca", "unissued")
def test_while_the_ca_is_down_the_first_run_succeeds_all_the_same(apply, served, curl, name):
    said = apply()
    assert "The CA does not answer" in said
    assert "webapp serves with a self-signed certificate, which browsers warn of." in said
    assert "Fix: run playbooks/issue-certificates.yml once it is back." in said
    issuer = re.search(r"issuer=(.+)", served())[1]
    assert issuer.replace(" ", "") == f"CN={name}"
    assert curl(f"https://{name}/health/ready", "--insecure", "--fail").returncode == 0


def test_what_the_ca_refuses_is_told_with_its_reason(apply, outside, served, name):
    forbidden = f"www.{name}"
    entry = json.dumps({"host": f"{forbidden}."})
    before = served()
    outside(f"curl --silent --data '{entry}' http://127.0.0.1:8055/clear-a")
    said = apply(site_domains=[name, forbidden])
    assert "certbot ended with 1 when asked for" in said
    assert re.search(rf"Domain: +{re.escape(forbidden)}", said)
    assert served() == before
    apply()


def test_the_second_run_is_silent_and_does_not_start_certbot(host, apply):
    log = "/var/log/letsencrypt/letsencrypt.log"
    before = host.file(log).mtime
    assert changed(apply()) == 0
    assert host.file(log).mtime == before


@pytest.mark.usefixtures("put_back")
def test_a_run_that_was_killed_before_the_reload_is_finished(host, apply):
    host.check_output("touch /var/lib/slipway/certificates")
    assert changed(apply()) == 1
    assert not host.file("/var/lib/slipway/certificates").exists


@pytest.mark.usefixtures("put_back")
def test_a_self_signed_certificate_serves_where_it_is_wanted(apply, served, curl, name):
    apply(tls_mode="selfsigned")
    issuer = re.search(r"issuer=(.+)", served())[1]
    assert issuer.replace(" ", "") == f"CN={name}"
    assert curl(f"https://{name}/health/ready", "--insecure").returncode == 0
    assert changed(apply(tls_mode="selfsigned")) == 0


@pytest.fixture
def company(outside, address, name, tmp_path):
    """Make a CA with an OCSP responder on the host outside, and a certificate for the name."""
    folder = f"/tmp/company-{name}"  # noqa: S108 (on the host outside)
    own = outside("hostname --all-ip-addresses").stdout.split()[0]
    port = 9000 + int(address.rpartition(".")[2])
    script = f"""
        set -eu; rm -rf {folder}; mkdir -p {folder}; cd {folder}
        key="-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        openssl req -x509 $key -days 30 -subj /CN=company -keyout ca.key -out ca.pem
        openssl req $key -subj /CN={name} -keyout privkey.pem -out request.pem
        printf 'subjectAltName=DNS:%s\\nauthorityInfoAccess=OCSP;URI:http://%s\\n' \
            {name} {own}:{port} >extensions
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
            -extfile extensions -out certificate.pem
        cat certificate.pem ca.pem >fullchain.pem
        serial=$(openssl x509 -noout -serial -in certificate.pem | cut -d= -f2)
        printf 'V\\t491231235959Z\\t\\t%s\\tunknown\\t/CN=%s\\n' $serial {name} >index
        systemctl stop ocsp-{port} || true
        systemd-run --unit ocsp-{port} --working-directory {folder} openssl ocsp -index index \
            -port {port} -rsigner ca.pem -rkey ca.key -CA ca.pem -ndays 1
    """
    done = outside(script)
    assert done.returncode == 0, done.stderr
    for file in ("fullchain.pem", "privkey.pem"):
        (tmp_path / file).write_text(outside(f"cat {folder}/{file}").stdout)
    yield tmp_path
    outside(f"systemctl stop ocsp-{port}")


@pytest.mark.usefixtures("put_back")
def test_a_certificate_of_ones_own_serves_with_the_word_of_its_responder(
    host, apply, company, outside, address, name
):
    mine = {
        "tls_mode": "provided",
        "tls_certificate_file": str(company / "fullchain.pem"),
        "tls_private_key_file": str(company / "privkey.pem"),
    }
    assert "PRIVATE KEY" not in apply(**mine)
    assert host.run("journalctl --no-pager --boot | grep --quiet 'PRIVATE KEY'").rc == 1
    ask = f"openssl s_client -connect {address}:443 -servername {name} -status </dev/null"
    # Each worker of nginx fetches the word of the responder for its own first client.
    for _ in range(20):
        seen = outside(f"{ask} -CAfile /tmp/company-{name}/ca.pem").stdout
        if "OCSP Response Status" in seen:
            break
        time.sleep(0.5)
    assert "Verify return code: 0 (ok)" in seen
    assert "OCSP Response Status: successful" in seen
    key = host.file(host.check_output("realpath /etc/slipway/tls/webapp/privkey.pem"))
    assert (key.user, key.mode) == ("root", 0o600)
    assert changed(apply(**mine)) == 0


def test_a_certificate_with_the_key_of_another_is_refused(playbook, company, served, tmp_path):
    before = served()
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    mine = {
        "tls_mode": "provided",
        "tls_certificate_file": str(company / "fullchain.pem"),
        "tls_private_key_file": str(other),
    }
    said = playbook("--tags", "tls,nginx", "--extra-vars", json.dumps(mine))
    assert said.returncode != 0
    assert "its key do not belong together" in said.stdout
    assert "PRIVATE KEY" not in said.stdout + said.stderr
    assert served() == before
