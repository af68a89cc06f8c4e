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
    """Return role, name and options of every input of every role, and of the deployment's facts."""
    found = []
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = path.parents[1].name
        for spec in yaml.safe_load(path.read_text())["argument_specs"].values():
            options = spec["options"]
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
    "list": st.just({"a": 1})
    | st.dictionaries(st.text(), st.none(), min_size=1)
    | st.sampled_from([25, 1.5, True, "", "ann", "a,b", '["a"]', "203.0.113.5"]),
    "dict": st.sampled_from(
        ["", "just words", 5, ["a", "b"], 1.5, "A=1", "a=1, b=2", '{"a": "b"}', ["a=1"]]
    ),
    "str": st.sampled_from([["a"], {"a": "b"}]),
    "path": st.sampled_from([["/a"], {"/a": "/b"}]),
}


# A line more than an input may have: in a unit or a configuration it would be a setting of its own.
LINES = st.text(min_size=1, max_size=9).map(lambda text: f"{text}\nUser=root")


def of_one_line() -> list:
    """Return those inputs that are texts, or hold texts, of one line each."""
    found = []
    for param in inputs():
        options = param.values[2][param.values[1]]
        is_text = {options["type"], options.get("elements")} & {"str", "path"}
        is_free = options["type"] == "dict" and "options" not in options
        if (is_text or is_free) and role_inputs.SEVERAL_LINES not in str(options["description"]):
            found.append(param)
    return found


def holding(options: dict, text: str) -> object:
    """Return a value of an input's type with a text in it."""
    return {"list": [text], "dict": {"A": text}}.get(options["type"], text)


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


@pytest.mark.parametrize(
    "wanted", ["backup_local", "hardening_user_namespaces", "ssh_allow_tunnels", "ssh_permit_root"]
)
def test_a_text_is_no_truth_value_where_a_role_would_take_it_for_one(wanted):
    """`-e ssh_permit_root=false` is the text "false", which is not empty, so true."""
    ((role, name, options),) = [one.values for one in inputs() if one.values[1] == wanted]
    (problem,) = role_inputs.check_inputs(role, options, {name: "false"})[1]
    assert f"{name} is 'false'." in problem
    assert not role_inputs.check_inputs(role, options, {name: False})[1]


@pytest.mark.parametrize(("role", "name", "options"), of_one_line())
@EXAMPLES
@given(text=LINES)
def test_a_line_too_many_is_refused(role, name, options, text):
    value = holding(options[name], text)
    (problem,) = role_inputs.check_inputs(role, options, {name: value})[1]
    assert "\nAllowed: " in problem


@pytest.mark.parametrize(
    ("role", "name", "options"),
    [param for param in inputs() if param.values[2][param.values[1]]["type"] == "dict"],
)
@EXAMPLES
@given(text=LINES)
def test_a_key_is_one_line(role, name, options, text):
    (problem,) = role_inputs.check_inputs(role, options, {name: {text: "a"}})[1]
    assert "\nAllowed: " in problem


# Hosts may be a database or a proxy only: they have the values of group_vars/all.
SITE = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())
SITE = SITE["argument_specs"]["site"]["options"]


def test_every_fact_that_is_handed_over_is_described():
    """And under its own name, which preflight's messages tell."""
    plays = yaml.safe_load((ROOT / "playbooks/preflight.yml").read_text())
    (role,) = [role for play in plays for role in play.get("roles", [])]
    handed = role["vars"]["preflight_site"]
    assert handed == {name: f"{{{{ {name} }}}}" for name in SITE}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("site_app_name", "shop_2"),
        ("site_app_static", ""),
        ("site_app_static", "web-app/static.d"),
        ("site_app_packages", []),
        ("site_app_packages", ["libmagic1", "g++", "python3.11-dev=3.11.2-6", "libc6:arm64"]),
        ("site_app_writable_directories", ["/srv/uploads", "/srv/über"]),
        ("site_domains", []),
        ("site_domains", ["_"]),
        ("site_domains", ["shop.example.org", "www.shop.example.org", "_", "localhost"]),
        ("site_domains", ["*.example.org", ".example.org", "example.*"]),
        ("site_domains", ["xn--bcher-kva.example", "203.0.113.5", "[2001:db8::1]"]),
        ("site_domains", [r"~^www\d+\.example\.org$"]),
        ("site_backup", False),
        ("site_monitoring", True),
    ],
)
def test_a_good_fact_of_the_deployment_is_accepted(name, value):
    assert role_inputs.check_inputs("preflight", SITE, {name: value}) == ({name: value}, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("site_app_name", "Shop"),
        ("site_app_static", "/static"),
        ("site_app_static", "static; deny all"),
        ("site_app_packages", "libmagic1"),
        ("site_app_packages", ["--purge"]),
        ("site_app_packages", ["libmagic1 libc6"]),
        ("site_app_writable_directories", "/srv/uploads"),
        ("site_app_writable_directories", ["uploads"]),
        ("site_app_writable_directories", ["~/uploads"]),
        ("site_app_writable_directories", ["/srv/a /etc"]),
        ("site_domains", "shop.example.org"),
        ("site_domains", ["a.org; }"]),
        ("site_domains", ["a.org b.org"]),
        ("site_domains", ["https://a.org"]),
        ("site_domains", ["bücher.example"]),
        ("site_domains", [["a.org"]]),
        ("site_domains", ["*"]),
        ("site_domains", [""]),
        ("site_backup", "false"),
        ("site_backup", 0),
        ("site_monitoring", "False"),
        ("site_monitoring", None),
    ],
)
def test_a_wrong_fact_of_the_deployment_is_refused_by_its_name(name, value):
    (problem,) = role_inputs.check_inputs("preflight", SITE, {name: value})[1]
    assert name in problem.splitlines()[0]
    assert f"Fix: set {name} in your inventory" in problem
