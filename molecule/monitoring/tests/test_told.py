"""Who is told: a webhook, a mail server, the status and the doctor."""

import json
import re
import time
from pathlib import Path

import pytest
from pages import commands_below
from test_alerts import SHARE, SMALL

testinfra_hosts = ["ansible://application"]

PAGE = Path(__file__).parents[3] / "docs/monitoring.md"

HOOK = """
import http.server, pathlib

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/hook", "ab") as file:
            file.write(body.strip() + b"\\n")
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 9999), Hook).serve_forever()
"""
MAIL = """
import socketserver

class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        say = lambda text: self.wfile.write(text.encode() + b"\\r\\n")
        say("220 mail")
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word == b"DATA":
                say("354 go on")
                with open("/run/mail", "ab") as file:
                    for line in self.rfile:
                        if line == b".\\r\\n":
                            break
                        file.write(line)
            say("221 bye" if word == b"QUIT" else "250 ok")
            if word == b"QUIT":
                break

socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", 2525), Mail).serve_forever()
"""


@pytest.fixture
def receivers(host, afterwards):
    """Listen where Alertmanager sends to."""
    for name, code in (("hook", HOOK), ("mail", MAIL)):
        afterwards(f"systemctl stop test-{name}; rm --force /run/{name}")
        host.check_output("rm --force /run/%s", name)
        host.check_output("systemd-run --collect --unit=test-%s python3 -c %s", name, code)


def told(host, status: str) -> set[str]:
    """Return the alerts that the webhook was told to be firing, or resolved."""
    posts = [json.loads(row) for row in host.run("cat /run/hook").stdout.splitlines()]
    return {post["commonLabels"]["alertname"] for post in posts if post["status"] == status}


def test_webhook_and_mail_get_the_alert_and_its_end(host, watch, afterwards, receivers):
    afterwards("rm --force /run/reboot-required")

    def both(status: str) -> bool:
        subject = rf"^Subject: \[{status.upper()}.*RebootPending"
        mail = host.run("cat /run/mail").stdout.replace("_", " ")
        return "RebootPending" in told(host, status) and bool(re.search(subject, mail, re.M))

    host.check_output("touch /run/reboot-required")
    assert watch.until(lambda: both("firing"), 120), host.run("cat /run/hook /run/mail").stdout
    assert not both("resolved")
    host.check_output("rm /run/reboot-required")
    assert watch.until(lambda: both("resolved"), 120), host.run("cat /run/hook /run/mail").stdout
    posts = [json.loads(row) for row in host.check_output("cat /run/hook").splitlines()]
    assert posts[0]["commonLabels"]["host"] == host.backend.host
    assert "reboot" in posts[0]["commonAnnotations"]["fix"]


def test_what_follows_from_an_alert_is_shown_and_not_sent(host, watch, afterwards, receivers, site):
    """What nginx answers for an application that is down is a failure of the application, too."""
    assert watch.until(lambda: watch.ask("/api/v1/alerts") and not watch.firing(), 180)
    mend = f"systemctl start webapp.target; umount {SMALL}; rmdir {SMALL}"
    afterwards(mend)
    host.check_output(f"{SHARE} && mkdir {SMALL} && mount -t tmpfs -o size=32M tmpfs {SMALL}")
    host.check_output(f"systemctl stop webapp.target && fallocate --length 30M {SMALL}/ballast")
    assert watch.until(lambda: site.ask("/users").status == 502, 10)
    for _ in range(8):
        assert site.ask("/users").status == 502
        time.sleep(1)
    first = {("AppDown", "webapp"), ("DiskFull", SMALL)}
    follow = {("AnswersFail", "webapp"), ("DiskFilling", SMALL), ("WorkersMissing", "webapp")}
    assert watch.until(lambda: watch.firing() == first | follow, 60), watch.firing()
    time.sleep(10)  # monitoring_group_seconds is 2
    assert told(host, "firing") == {"AppDown", "DiskFull"}
    # What was told to be wrong, and not to be well again, would not be told anew by the next test.
    host.run("sh -c %s", mend)
    assert watch.until(lambda: not watch.firing(), 180), watch.firing()
    assert watch.until(lambda: told(host, "firing") == told(host, "resolved"), 60)


def test_a_silence_as_on_the_page_lets_nobody_be_told_until_it_ends(
    host, watch, afterwards, receivers
):
    assert watch.until(lambda: watch.ask("/api/v1/alerts") and not watch.firing(), 180)
    amtool = "amtool --alertmanager.url=http://127.0.0.1:9093"
    afterwards(f"{amtool} silence expire $({amtool} silence query --quiet)")
    afterwards("rm --force /run/reboot-required")
    number = host.check_output("sh -c %s", commands_below(PAGE.read_text(), "Quiet for two hours"))
    host.check_output("touch /run/reboot-required")
    assert watch.fires("RebootPending", "node")
    time.sleep(20)  # monitoring_group_seconds is 2, and Prometheus sends every 5 s
    assert not told(host, "firing")
    host.check_output(f"{amtool} silence expire {number}")
    assert watch.until(lambda: "RebootPending" in told(host, "firing"), 60)
    host.check_output("rm /run/reboot-required")
    assert watch.until(lambda: "RebootPending" in told(host, "resolved"), 120)


@pytest.fixture
def looks(host, run_ops, run_doctor):
    """Return a function: what the status and the doctor say of the alerts."""

    def look() -> tuple[dict, str, list[dict]]:
        limit = ("--limit", host.backend.host)
        document = json.loads(run_ops("--json", *limit, "status").stdout)
        said = run_ops(*limit, "status").stdout
        lines = run_doctor("--extra-vars=doctor_json=true").stdout.splitlines()
        (report,) = (json.loads(line) for line in lines if line.startswith("{"))
        checks = [one for one in report["hosts"][0]["checks"] if one["check"] == "alerts"]
        line = re.search(r"^  alerts +(.*)$", said, re.MULTILINE)[1]
        return document["hosts"][0]["machine"]["alerts"], line, checks

    return look


def test_status_and_doctor_tell_what_is_firing(host, watch, afterwards, looks):
    assert watch.until(lambda: watch.ask("/api/v1/alerts") and not watch.firing(), 180)
    seen, line, (check,) = looks()
    assert seen == {"error": "", "firing": []}
    assert line == "none is firing"
    assert (check["state"], check["said"]) == ("ok", "none is firing.")

    afterwards("rm --force /run/reboot-required; systemctl start webapp.target prometheus")
    host.check_output("touch /run/reboot-required; systemctl stop webapp.target")
    assert watch.fires("RebootPending", "node")
    assert watch.fires("AppDown", "webapp")
    assert watch.fires("WorkersMissing", "webapp")
    seen, line, checks = looks()
    alerts = ["AppDown", "RebootPending", "WorkersMissing"]
    assert [one["alert"] for one in seen["firing"]] == alerts
    assert line == "3 FIRING: AppDown (webapp), RebootPending (node), WorkersMissing (webapp)"
    assert [one["state"] for one in checks] == ["bad", "warn", "warn"]
    assert checks[0]["said"] == "AppDown: webapp does not answer its health check."
    assert "ops logs" in checks[0]["fix"]

    host.check_output("systemctl stop prometheus")
    seen, line, (check,) = looks()
    assert line.startswith("UNKNOWN, Prometheus does not answer")
    assert check["state"] == "bad"
    assert "systemctl status prometheus" in check["fix"]


def test_the_status_without_a_limit_names_every_host(run_ops):
    hosts = json.loads(run_ops("--json", "status").stdout)["hosts"]
    seen = {one["host"]: [app["app"] for app in one["apps"]] for one in hosts}
    assert seen == {"watched": ["webapp"], "watched13": ["webapp"]}
