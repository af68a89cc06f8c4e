"""The doctor's plugins judge what was seen, and print it for people and for programs."""

import time
from types import SimpleNamespace

import pytest

from plugins import load

load("base/module_utils/host_look.py", "ansible.module_utils.host_look")
checkup = load("doctor/action_plugins/checkup.py")
report = load("doctor/action_plugins/report.py")
host_checkup = load("doctor/library/host_checkup.py")
doctor_exit = load("doctor/callback_plugins/doctor_exit.py")


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("site_domains", ["app.example.org"], ["site_domains"]),
        ("flask_app_environment", {"A": {"B": "CHANGE_ME"}}, ["flask_app_environment.A.B"]),
        ("vault_site_token", "changeme", ["vault_site_token"]),
        ("flask_app_environment", {"API_KEY": "secret"}, ["flask_app_environment.API_KEY"]),
        ("ansible_become_password", "123456", ["ansible_become_password"]),
        ("site_app_name", "secret", []),
        ("site_token", "{{ vault_site_token }}", []),
        ("site_token", "", []),
        ("site_token", "kT4!hq0v2nN", []),
        ("site_domains", ["myexample.organic.net"], []),
        ("ansible_managed", "changeme", []),
        ("site_port", 80, []),
    ],
)
def test_a_placeholder_is_named_and_nothing_else(variable, value, found):
    assert checkup.placeholders({variable: value}) == found


def certificate(days_left: int, self_signed: bool = False) -> dict:
    """Return a certificate as the host tells of it."""
    return {
        "name": "shop",
        "path": "/etc/slipway/tls/shop/fullchain.pem",
        "error": "",
        "days_left": days_left,
        "self_signed": self_signed,
    }


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        ([], "off", "there is none"),
        ([certificate(60)], "ok", "good for 60 days"),
        ([certificate(21)], "ok", "good for 21 days"),
        ([certificate(20)], "warn", "expires in 20 days"),
        ([certificate(7)], "warn", "expires in 7 days"),
        ([certificate(6)], "bad", "expires in 6 days"),
        ([certificate(-2)], "bad", "expired 2 days ago"),
        ([certificate(60, self_signed=True)], "warn", "self-signed"),
        ([certificate(60) | {"error": "unable to load"}], "bad", "unable to load"),
    ],
)
def test_a_certificate_is_judged_by_its_days(seen, state, said):
    (finding,) = checkup.judge_certificates(seen, warn_days=21, bad_days=7)
    assert finding.state == state
    assert said in finding.said
    assert bool(finding.fix) == (state in ("warn", "bad"))


PROBLEM = "vps has 100 MiB of\n  memory.\nSeen in: /proc/meminfo.\nAllowed: 900.\nFix: resize\nit."


def test_what_preflight_found_becomes_lines():
    first = {
        "good": {"memory": "100 MiB.", "clock": "0 s off.", "budget": ""},
        "notices": [{"what": "system", "message": "Not tested.\nFix: reinstall."}],
        "problems": [{"what": "memory", "message": PROBLEM}],
        "wrong_inputs": ["x is 0.\nInput of the role web: X.\nAllowed: 1 to 2.\nFix: set x."],
    }
    second = {"good": {}, "notices": [], "problems": first["problems"], "wrong_inputs": []}
    assert [tuple(finding) for finding in checkup.preflight_findings([first, second])] == [
        ("memory", "bad", "vps has 100 MiB of memory.", "resize it."),
        ("clock", "ok", "0 s off.", ""),
        ("system", "warn", "Not tested.", "reinstall."),
        ("inventory", "bad", "x is 0.", "set x."),
    ]


def test_nobody_waits_for_a_name_server_that_does_not_answer():
    began = time.monotonic()
    answers = checkup.at_once({"slow": lambda: time.sleep(30), "quick": lambda: 1}, 0.2)
    assert time.monotonic() - began < 5
    assert answers["quick"] == 1
    assert isinstance(answers["slow"], TimeoutError)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (["203.0.113.7"], "ok"),
        (["198.51.100.1"], "warn"),
        (OSError("Name or service not known"), "bad"),
    ],
)
def test_a_name_must_lead_to_this_host(seen, state):
    (finding,) = checkup.judge_names({"shop.example.org": seen}, {"203.0.113.7", "2001:db8::7"})
    assert finding.state == state
    assert ("203.0.113.7" in finding.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (["ok", "off"], "ok"),
        (["ok", "warn", "off"], "warn"),
        (["warn", "bad", "ok"], "bad"),
        ([], "ok"),
    ],
)
def test_the_worst_state_counts(states, worst):
    assert report.worst([{"state": state} for state in states]) == worst


def test_each_finding_is_one_aligned_line():
    findings = [
        {"check": "disk", "state": "ok", "said": "12 MiB.", "fix": ""},
        {"check": "firewall", "state": "bad", "said": "none.", "fix": "run it."},
    ]
    lines = report.table("vps", findings).splitlines()
    assert lines[1:] == [
        "vps: 1 bad, 1 ok",
        "ok    disk      12 MiB.",
        "bad   firewall  none.  Fix: run it.",
    ]


@pytest.mark.parametrize(
    ("worst", "failures", "code"), [("ok", {}, 0), ("warn", {}, 1), ("warn", {"vps": 1}, 0)]
)
def test_only_a_warning_changes_the_exit_code(worst, failures, code):
    callback = doctor_exit.CallbackModule()
    task = SimpleNamespace(action="report")
    callback.v2_runner_on_ok(SimpleNamespace(task=task, result={"worst": worst}))
    stats = SimpleNamespace(failures=failures, dark={})
    if code == 0:
        assert callback.v2_playbook_on_stats(stats) is None
    else:
        with pytest.raises(SystemExit) as ended:
            callback.v2_playbook_on_stats(stats)
        assert ended.value.code == code


FIRING = {
    "alert": "AppDown",
    "subject": "shop",
    "severity": "critical",
    "said": "It is.",
    "fix": "x",
}


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        (None, ["off"]),
        ({"error": "", "firing": []}, ["ok"]),
        ({"error": "Prometheus does not answer", "firing": []}, ["bad"]),
        ({"error": "", "firing": [FIRING, FIRING | {"severity": "warning"}]}, ["bad", "warn"]),
    ],
)
def test_each_alert_that_fires_is_a_line(seen, states):
    found = list(checkup.judge_alerts(seen))
    assert [finding.state for finding in found] == states
    assert all(finding.fix for finding in found if finding.state in ("bad", "warn"))


# What apt-get says when it simulates an upgrade.
SIMULATED = """\
The following packages will be upgraded:
  base-files libssl3 openssl tzdata
Inst openssl [3.0.15-1] (3.0.17-1 Debian-Security:12/oldstable-security [amd64]) []
Inst libssl3 [3.0.15-1] (3.0.17-1 Debian:12.12/oldstable, Debian-Security:12/x [amd64])
Inst tzdata [2024a-0] (2025b-0 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [all])
Inst base-files [12.4] (12.4+deb12u12 Debian:12.12/oldstable [amd64])
Inst debian-security-support [1:12] (1:13 Debian:12.12/oldstable [all])
Conf openssl (3.0.17-1 Debian-Security:12/oldstable-security [amd64])
"""


@pytest.mark.parametrize(
    ("code", "output", "error", "expected"),
    [
        (0, SIMULATED, "", {"security": ["openssl", "libssl3", "tzdata"], "others": 2}),
        (0, "", "W: a warning", {"security": [], "others": 0, "error": ""}),
        (100, "", "E: Unmet dependencies.\n", {"error": "E: Unmet dependencies."}),
    ],
)
def test_what_apt_would_upgrade_is_counted_by_its_archive(
    monkeypatch, tmp_path, code, output, error, expected
):
    monkeypatch.setattr(host_checkup, "LISTS", tmp_path)
    (tmp_path / "x_InRelease").touch()
    module = SimpleNamespace(run_command=lambda *_, **__: (code, output, error))
    seen = host_checkup.updates(module)
    assert {key: seen[key] for key in expected} == expected
    assert seen["age_hours"] == 0


def test_where_no_list_was_ever_fetched_nobody_knows_their_age(monkeypatch, tmp_path):
    monkeypatch.setattr(host_checkup, "LISTS", tmp_path)
    module = SimpleNamespace(run_command=lambda *_, **__: (0, "", ""))
    assert host_checkup.updates(module)["age_hours"] is None


UP_TO_DATE = {"error": "", "security": [], "others": 0, "age_hours": 5}


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        ({}, "ok", "no security update waits, 0 others do."),
        ({"others": 3}, "ok", "no security update waits, 3 others do."),
        ({"security": ["openssl"], "others": 3}, "warn", "1 security updates wait: openssl."),
        ({"security": list("abcdef")}, "warn", "6 security updates wait: a, b, c, d, e, …."),
        ({"age_hours": 48}, "ok", "no security update waits, 0 others do."),
        ({"age_hours": 60}, "warn", "last looked for 2.5 days ago."),
        ({"age_hours": None}, "warn", "last looked for never."),
        ({"error": "E: broken"}, "bad", "apt-get cannot tell: E: broken"),
    ],
)
def test_updates_are_judged_by_what_waits_and_how_well_it_is_known(seen, state, said):
    finding = checkup.judge_updates(UP_TO_DATE | seen, lists_max_hours=48)
    assert (finding.state, finding.said) == (state, said)
    assert bool(finding.fix) == (state != "ok")


def backup_line(state: str, said: str) -> dict:
    """Return what the host's check of its backup says of one thing."""
    return {"state": state, "said": said, "fix": "" if state == "ok" else f"mend {said}."}


@pytest.mark.parametrize(
    ("lines", "age", "expected"),
    [
        ({"backup": ("ok", "one is there."), "drill": ("ok", "It went well.")}, 1500,
         [("ok", "One is there. It went well.")]),
        ({"backup": ("ok", "one is there."), "drill": ("bad", "it\n failed")}, 3,
         [("bad", "drill: it failed")]),
        ({"archive": ("bad", "full"), "drill": ("warn", "old")}, 3,
         [("bad", "archive: full"), ("warn", "drill: old")]),
        ({"backup": ("ok", "one is there.")}, 1501,
         [("bad", "nobody has looked at it for 1501 minutes.")]),
    ],
)  # fmt: skip
def test_each_line_of_the_backup_that_is_not_well_is_told(lines, age, expected):
    lines = {name: backup_line(*line) for name, line in lines.items()}
    seen = {"age_minutes": age, "lines": lines}
    found = list(checkup.judge_backup(seen))
    assert [(finding.state, finding.said) for finding in found] == expected
    assert all(bool(finding.fix) == (finding.state != "ok") for finding in found)


@pytest.mark.parametrize(("seen", "said"), [(None, "not set up."), ({}, "not looked at yet.")])
def test_a_backup_that_nobody_makes_or_has_looked_at_is_a_warning(seen, said):
    (finding,) = checkup.judge_backup(seen)
    assert (finding.state, finding.said) == ("warn", said)
    assert finding.fix
