"""./ops: each word is a playbook, each playbook has a word, and nothing else is in it."""

import importlib.machinery
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
OPS = ROOT / "ops"


@pytest.fixture(scope="module")
def ops():
    """Return ./ops as a module."""
    loader = importlib.machinery.SourceFileLoader("ops", str(OPS))
    spec = importlib.util.spec_from_loader("ops", loader)
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([OPS, *arguments], capture_output=True, text=True)


def shown(*arguments: str) -> list[str]:
    """Return the arguments that ansible-playbook would get."""
    done = run("--show", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)[1:]


def test_every_playbook_has_a_word_or_is_a_part_of_site(ops):
    plays = yaml.safe_load((ROOT / "site.yml").read_text())
    parts = {Path(play["ansible.builtin.import_playbook"]).stem for play in plays}
    words = {word.playbook for word in ops.WORDS.values()}
    assert words | parts == {path.stem for path in ROOT.glob("playbooks/*.yml")}


def test_help_lists_every_word_in_one_line_with_its_playbooks_words(ops):
    lines = run("--help").stdout.splitlines()
    for name, word in ops.WORDS.items():
        meaning = ops.meaning(word.playbook)
        assert f"    {name:19} {meaning}" in lines
        head = (ROOT / f"playbooks/{word.playbook}.yml").read_text().split("\n- ")[0]
        assert meaning in " ".join(head.replace("# ", "").split())


def test_a_word_names_its_playbook_and_one_inventory():
    assert shown("-i", "inventory/example", "-l", "shop", "deploy") == [
        *("-i", str(ROOT / "inventory/example"), "--limit", "shop"),
        "playbooks/deploy-application.yml",
    ]
    assert shown("deploy", "-l", "shop") == shown("-l", "shop", "deploy")


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["rollback", "ID"], {"flask_app_rollback_to": "ID"}),
        (["rollback", "--accept-schema"], {"flask_app_rollback_accepts_schema": True}),
        (["logs", "--since", "1 hour ago"], {"flask_app_logs_since": "1 hour ago"}),
        (["logs", "--json", "--lines", "3"], {"flask_app_logs_lines": 3, "flask_app_json": True}),
        (["flask", "db", "upgrade", "two words"], {"flask_app_run": "db upgrade 'two words'"}),
        (["flask", "routes", "--sort", "rule"], {"flask_app_run": "routes --sort rule"}),
        (["flask", "--app", "x", "routes"], {"flask_app_run": "--app x routes"}),
        (["-l", "flask", "flask", "--version"], {"flask_app_run": "--version"}),
        (["begin-maintenance", "--message", "Noon"], {"nginx_maintenance_message": "Noon"}),
        (["status", "--json"], {"status_json": True}),
        (["report", "--output", "/tmp/a b.html"], {"status_page": "/tmp/a b.html"}),  # noqa: S108
        (["--json", "doctor"], {"doctor_json": True}),
    ],
)
def test_arguments_become_the_variables_of_the_playbook(arguments, variables):
    command = shown(*arguments)
    assert json.loads(command[command.index("--extra-vars") + 1]) == variables


def test_what_follows_two_dashes_goes_to_ansible_as_it_is():
    assert shown("deploy", "--", "--check", "-e", "a='b c'")[-3:] == ["--check", "-e", "a='b c'"]


@pytest.mark.parametrize("arguments", [["dance"], [], ["deploy", "--json"], ["status", "shop"]])
def test_a_call_that_is_not_understood_ends_with_64(arguments):
    done = run(*arguments)
    assert done.returncode == 64
    assert "Fix: ./ops --help" in done.stderr


def test_a_shell_can_complete_the_words(ops):
    complete = 'compgen -W "$(./ops --words)" -- "$1"'
    for begun, whole in (("re", {"releases", "report", "restart", "restore"}), ("", ops.WORDS)):
        command = ["bash", "-c", complete, "bash", begun]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert set(done.stdout.split()) == {*whole}


def test_the_page_of_operations_has_the_words_and_exit_codes_of_the_help(ops):
    page = (ROOT / "docs/operations.md").read_text()
    rows = [row.split(" | ")[0] for row in re.findall(r"^\| (.+)$", page, re.MULTILINE)]
    assert {word for row in rows for word in re.findall(r"`([a-z-]+)`", row)} >= {*ops.WORDS}
    codes = re.findall(r"^  ((?:\d+(?:, )?)+) ", ops.EXIT_CODES, re.MULTILINE)
    assert len(codes) == 6
    assert set(codes) <= set(rows)


def test_every_variable_of_a_word_is_an_input_of_a_role(ops):
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/*_specs.yml")]
    inputs = {name for spec in specs for name in spec["argument_specs"]["main"]["options"]}
    for word in ops.WORDS.values():
        used = {one.variable for one in word.arguments} | {word.json_variable} - {""}
        assert used <= inputs


def test_an_inventory_that_cannot_be_read_is_not_blamed_on_the_limit(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: {shop: a:b: c}}\n")
    done = run("-i", str(tmp_path), "-l", "shop", "restart")
    assert done.returncode == 64
    assert "hosts.yml" in done.stderr.partition("ops: shop is nothing")[0]
