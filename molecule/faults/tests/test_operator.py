"""People edit what is managed, and stop runs in the middle: the next run makes it whole."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from fixtures import TABLE
from hypothesis import find

sys.path.append(str(Path(__file__).parents[3] / "tests"))

from runs import REFUSES, changed, last_task

from test_generated_inputs import LINES, WRONG, beyond, holding, inputs, of_one_line, role_inputs

testinfra_hosts = ["ansible://application"]

PROJECT = Path(__file__).parents[3]
# Whatever comes from a template says so in its head; a release's own copies are not among them:
# each release is made anew. Keys on the host are added to, and kept, where the inventory has none.
MANAGED = (
    "grep -rlI --exclude-dir=authorized_keys.d '^[#/;<*! -]*Ansible managed' "
    "/etc /usr/local /var/lib"
)
# Programs and what they read are copied as they are.
COPIED = (
    "find /usr/local/lib/slipway /usr/local/sbin /etc/slipway/backup /etc/webapp -type f "
    "\\( -name '*.py' -o -name '*.json' -o -name 'slipway*' \\) "
    "! -path '*/__pycache__/*' ! -name s3.json"
)
EDIT = "# somebody was here\n"


def roles_of_site() -> list[str]:
    """Return the roles that site.yml runs, each once."""
    plays = yaml.safe_load((PROJECT / "site.yml").read_text())
    imported = [PROJECT / play["ansible.builtin.import_playbook"] for play in plays]
    roles = [
        role["role"]
        for playbook in imported
        for play in yaml.safe_load(playbook.read_text())
        for role in play.get("roles", [])
    ]
    return list(dict.fromkeys(roles))


def test_runs_killed_in_every_role_need_no_help(host, site):
    """prepare.yml has killed them; that the run after each went on is why this host serves."""
    report = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "killed.json")
    killed = json.loads(report.read_text())
    assert sorted(killed) == sorted(roles_of_site())
    assert site.ask("/health/ready").status == 200
    saw = f"the first runs, killed in each of {len(killed)} roles, were gone on with by the next"
    row = {"failed": "-", "seconds": "-", "lost": "-", "saw": saw}
    TABLE.put("`site.yml` is killed (`kill -9`) in every role", row)


def test_every_managed_file_that_was_edited_is_mended_and_named(host, server, fault, playbook):
    marked, copied = server.must(MANAGED).split(), server.must(COPIED).split()
    assert len(marked) > 30
    assert len(copied) > 20
    files = sorted({*marked, *copied})
    sums = f"sha256sum {' '.join(files)}"
    before = server.must(sums)
    with fault(f"all {len(files)} managed files are edited by hand, and `site.yml` run") as seen:
        seen.begins()
        for file in files:
            server.must(f"printf '{EDIT.strip()}\\n' >> {file}")
        assert server.must(sums) != before
        done = playbook()
        seen.ends()
    assert done.returncode == 0, done.stdout
    assert server.must(sums) == before
    assert sorted(re.findall(rf"^{server.name}: rewrote (\S+)$", done.stdout, re.M)) == files
    assert seen.seconds < 5
    assert changed(playbook().stdout) == 0


def wired() -> set[str]:
    """Return the inputs of preflight that its playbook hands over, which no inventory can set."""
    (role,) = [
        role
        for play in yaml.safe_load((PROJECT / "playbooks/preflight.yml").read_text())
        for role in play.get("roles", [])
    ]
    return set(role["vars"])


def wrong_types() -> dict[str, object]:
    """Return a value of a wrong type for each input of each role that has a type to be wrong in.

    Not those of preflight itself: Ansible refuses them before the role begins. But the facts of
    the deployment, which it takes as they are.
    """
    return {
        param.values[1]: find(WRONG[kind], lambda _: True)
        for param in inputs()
        if (kind := param.values[2][param.values[1]]["type"]) in WRONG
        and (param.values[0] != "preflight" or param.values[1].startswith("site_"))
    }


def numbers_out_of_bounds() -> dict[str, object]:
    """Return a number that is too small or too large for each input that has bounds."""
    found = {}
    for param in inputs():
        _, name, options = param.values
        bounds = role_inputs.RANGE.search(str(options[name]["description"]))
        if bounds:
            number = find(beyond(float(bounds[1]), float(bounds[2])), lambda _: True)
            found[name] = [number] if options[name]["type"] == "list" else number
    return found


def lines_too_many() -> dict[str, object]:
    """Return two lines for each input that is one, or holds such texts."""
    text = find(LINES, lambda _: True)
    lined = [param.values for param in of_one_line()]
    return {name: holding(options[name], text) for _, name, options in lined}


@pytest.mark.parametrize("wrong", [wrong_types, numbers_out_of_bounds, lines_too_many])
def test_wrong_values_for_every_variable_reach_no_host(host, server, fault, playbook, wrong):
    """tests/test_generated_inputs.py tries many values of each; here is one of each, at once."""
    values = {name: value for name, value in wrong().items() if name not in wired()}
    assert len(values) > 100
    server.must("touch /run/stamp")
    what = wrong.__name__.replace("_", " ")
    with fault(f"`site.yml` with {what} for all {len(values)} variables") as seen:
        seen.begins()
        done = playbook("--extra-vars", json.dumps(values))
        seen.ends()
    assert done.returncode != 0
    assert [name for name in values if name not in done.stdout] == []
    assert last_task(done.stdout).startswith(REFUSES)
    assert changed(done.stdout) == 0
    # What the timers of backup and monitoring write down is not the run's.
    newer = (
        "find /etc /srv /usr /var/lib/slipway -xdev -newer /run/stamp "
        "! -path '*/.ansible*' ! -path '/var/lib/slipway/backup*' "
        "! -path '/var/lib/slipway/metrics*'"
    )
    assert server.must(newer) == ""
    assert seen.failed == []
