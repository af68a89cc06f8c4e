"""The first contact finds out whether a host has Python, and blames nothing else on it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template

from plugins import load

reach = load("preflight/action_plugins/reach.py")


@pytest.fixture
def look(monkeypatch):
    """Return a function: run the action where this computer's shell, or an answer, is the host."""
    monkeypatch.setattr(ActionBase, "run", lambda *_: None)

    def run(python: str, answer: dict | None = None) -> dict:
        def execute(command: str) -> dict:
            done = subprocess.run(command, shell=True, capture_output=True, text=True)  # noqa: S602
            return answer or {"rc": done.returncode, "stdout": done.stdout}

        action = object.__new__(reach.ActionModule)
        action._low_level_execute_command = execute
        variables = {
            "ansible_python_interpreter": trust_as_template(python),
            "inventory_hostname": "vps",
            "folder": sys.prefix,
        }
        action._templar = Templar(DataLoader(), variables)
        action._task = SimpleNamespace(args={})
        return action.run(task_vars=variables)

    return run


@pytest.mark.parametrize("python", [sys.executable, "{{ folder }}/bin/python", "auto", "python3"])
def test_an_interpreter_that_is_there_or_is_to_be_discovered_is_no_problem(look, python):
    assert look(python) == {"changed": False}


@pytest.mark.parametrize("python", ["/nowhere/python3", "{{ folder }}/nowhere/python3"])
def test_one_that_is_missing_is_told(look, python):
    with pytest.raises(AnsibleActionFail, match=r"vps has no /.*nowhere/python3; nothing was"):
        look(python)


@pytest.mark.parametrize("code", [1, 142])
def test_a_host_that_lets_nobody_in_is_not_said_to_lack_it(look, code):
    said = {"rc": code, "stdout": 'Please login as the user "debian" rather than "root".\n'}
    assert look("/usr/bin/python3", answer=said) == {"changed": False}
