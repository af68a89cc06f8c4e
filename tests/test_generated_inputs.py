"""Whatever is written into an inventory, preflight judges it in its own words; nothing raises."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins import load

role_inputs = load("preflight/action_plugins/role_inputs.py")
ROOT = Path(__file__).parents[1]


def inputs() -> list:
    """Return role, name and options of every input of every role."""
    found = []
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        options = yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
        role = path.parents[1].name
        found += [pytest.param(role, name, options, id=name) for name in options]
    return found


# The same ones in each run, so that a failure is one of the change at hand.
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True, database=None)
# What YAML can hold.
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
# Of no use where such a type is wanted.
WORDS = st.sampled_from(["many", "1,5", "0x", "ten %", "½", "1 2"])
WRONG = {
    "int": WORDS
    | st.dictionaries(st.text(), st.none(), min_size=1)
    | st.just([1, 2])
    | st.just(1.5),
    "float": WORDS | st.just({"a": 1}) | st.just([1.5]),
    "bool": st.sampled_from(["perhaps", "2", 17, [True], {"yes": True}]),
    "list": st.just({"a": 1}) | st.dictionaries(st.text(), st.none(), min_size=1),
    "dict": st.sampled_from(["just words", 5, ["a", "b"], 1.5]),
}


# A line more than an input may have: in a unit or a configuration it would be a setting of its own.
LINES = st.text(min_size=1, max_size=9).map(lambda text: f"{text}\nUser=root")


def of_one_line() -> list:
    """Return those inputs that are texts, or lists of texts, of one line each."""
    found = []
    for param in inputs():
        options = param.values[2][param.values[1]]
        is_text = {options["type"], options.get("elements")} & {"str", "path"}
        if is_text and role_inputs.SEVERAL_LINES not in str(options["description"]):
            found.append(param)
    return found


def beyond(low: float, high: float) -> st.SearchStrategy:
    """Return numbers outside of a range."""
    return st.integers(max_value=int(low) - 1) | st.integers(min_value=int(high) + 1)


@pytest.mark.parametrize(("role", "name", "options"), inputs())
@EXAMPLES
@given(value=ANYTHING)
def test_any_value_is_judged_without_a_traceback(role, name, options, value):
    checked, problems = role_inputs.check_inputs(role, options, {name: value})
    for problem in problems:
        assert f"Input of the role {role}:" in problem
        assert "\nAllowed: " in problem
        assert "\nFix: " in problem
    assert name in checked or problems


@pytest.mark.parametrize(
    ("role", "name", "options"),
    [param for param in inputs() if param.values[2][param.values[1]]["type"] in WRONG],
)
@EXAMPLES
@given(data=st.data())
def test_a_wrong_type_is_refused(role, name, options, data):
    value = data.draw(WRONG[options[name]["type"]])
    assert role_inputs.check_inputs(role, options, {name: value})[1], value


@pytest.mark.parametrize(
    ("role", "name", "options"),
    [
        param
        for param in inputs()
        if role_inputs.RANGE.search(str(param.values[2][param.values[1]]["description"]))
    ],
)
@EXAMPLES
@given(data=st.data())
def test_a_number_beyond_its_bounds_is_refused(role, name, options, data):
    bounds = role_inputs.RANGE.search(str(options[name]["description"]))
    value = data.draw(beyond(float(bounds[1]), float(bounds[2])))
    if options[name]["type"] == "list":
        value = [value]
    (problem,) = role_inputs.check_inputs(role, options, {name: value})[1]
    assert f"Allowed: {bounds[1]} to {bounds[2]}." in problem


@pytest.mark.parametrize(("role", "name", "options"), of_one_line())
@EXAMPLES
@given(text=LINES)
def test_a_line_too_many_is_refused(role, name, options, text):
    value = [text] if options[name]["type"] == "list" else text
    (problem,) = role_inputs.check_inputs(role, options, {name: value})[1]
    assert "\nAllowed: " in problem
