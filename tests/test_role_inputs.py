"""The preflight plugin tells a good input from a bad one, in its own words."""

import importlib.util
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "roles/preflight/action_plugins/role_inputs.py"
SPEC = importlib.util.spec_from_file_location("role_inputs", PLUGIN)
role_inputs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(role_inputs)

OPTIONS = {
    "web_workers": {"type": "int", "description": "Processes. Allowed: 1 to 64."},
    "web_cost": {"type": "float", "description": "Cost. Allowed: 0.5 to 2.5."},
    "web_name": {"type": "str", "description": "Name. Allowed: /^[a-z]+$/."},
    "web_mode": {"type": "str", "choices": ["fast", "safe"], "description": "Mode."},
    "web_names": {"type": "list", "elements": "str", "description": "Names. Allowed: /^[a-z]+$/."},
    "web_free": {"type": "str", "description": "Anything."},
}


@pytest.mark.parametrize(
    ("name", "value", "resolved"),
    [
        ("web_workers", 1, 1),
        ("web_workers", "64", 64),
        ("web_cost", 2.5, 2.5),
        ("web_name", "abc", "abc"),
        ("web_mode", "safe", "safe"),
        ("web_names", ["a", "b"], ["a", "b"]),
        ("web_free", "  ", "  "),
    ],
)
def test_good_inputs_come_back_in_their_type(name, value, resolved):
    assert role_inputs.check_inputs("web", OPTIONS, {name: value}) == ({name: resolved}, [])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("web_workers", 0, "web_workers is 0."),
        ("web_workers", "65", "Allowed: 1 to 64."),
        ("web_workers", "many", "Allowed: int."),
        ("web_cost", 0.4, "Allowed: 0.5 to 2.5."),
        ("web_name", "Abc", "Allowed: what matches ^[a-z]+$."),
        ("web_mode", "slow", "fast"),
        ("web_names", ["a", "B"], "Allowed: what matches"),
        ("web_names", {"a": 1}, "Allowed: list."),
    ],
)
def test_bad_inputs_are_told_in_four_parts(name, value, told):
    _, problems = role_inputs.check_inputs("web", OPTIONS, {name: value})
    assert len(problems) == 1
    assert told in problems[0]
    assert "Input of the role web" in problems[0]
    assert f"Fix: set {name} in your inventory" in problems[0]
