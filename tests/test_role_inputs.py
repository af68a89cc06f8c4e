"""The preflight plugin tells a good input from a bad one, in its own words."""

from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugins import load

role_inputs = load("preflight/action_plugins/role_inputs.py")

OPTIONS = {
    "web_workers": {"type": "int", "description": "Processes. Allowed: 1 to 64."},
    "web_cost": {"type": "float", "description": "Cost. Allowed: 0.5 to 2.5."},
    "web_name": {"type": "str", "description": "Name. Allowed: /^[a-z]+$/."},
    "web_mode": {"type": "str", "choices": ["fast", "safe"], "description": "Mode."},
    "web_names": {"type": "list", "elements": "str", "description": "Names. Allowed: /^[a-z]+$/."},
    "web_doors": {
        "type": "list",
        "elements": "dict",
        "description": "Doors.",
        "options": {"port": {"type": "int", "description": "The port. Allowed: 1 to 9."}},
    },
    "web_place": {
        "type": "dict",
        "description": "A place.",
        "options": {"path": {"type": "str", "description": "Its path. Allowed: /^[/]/."}},
    },
    "web_free": {"type": "str", "description": "Anything."},
    "web_headers": {"type": "dict", "description": "Headers."},
    "web_rules": {
        "type": "list",
        "elements": "dict",
        "description": "Rules.",
        "options": {"from": {"type": "list", "elements": "str", "description": "Networks."}},
    },
    "web_keys": {"type": "dict", "description": "Keys; a value may have several lines."},
    "web_watch": {"type": "bool", "description": "Whether: true or false without quotes."},
    "web_notice": {"type": "str", "description": "A text; may have several lines."},
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
        ("web_doors", [{"port": "9"}], [{"port": 9}]),
        ("web_place", {"path": "/here"}, {"path": "/here"}),
        ("web_place", {}, {"path": None}),
        ("web_free", "  ", "  "),
        ("web_notice", "a\n\tb\n", "a\n\tb\n"),
        ("web_headers", {"A": 1, "B": ["b"]}, {"A": 1, "B": ["b"]}),
        ("web_rules", [{"from": ["10.0.0.1"]}, {}], [{"from": ["10.0.0.1"]}, {"from": None}]),
        ("web_keys", {"A": "-\n-\n"}, {"A": "-\n-\n"}),
        ("web_watch", False, False),
    ],
)
def test_good_inputs_come_back_in_their_type(name, value, resolved):
    assert role_inputs.check_inputs("web", OPTIONS, {name: value}) == ({name: resolved}, [])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("web_workers", 0, "web_workers is 0."),
        ("web_workers", "65", "Allowed: 1 to 64."),
        ("web_workers", "many", "web_workers is 'many'."),
        ("web_workers", [1, 2], "Allowed: int."),
        ("web_names", {"a": 1}, "web_names is a dictionary."),
        ("web_cost", 0.4, "Allowed: 0.5 to 2.5."),
        ("web_name", "Abc", "Allowed: what matches ^[a-z]+$."),
        ("web_mode", "slow", "fast"),
        ("web_name", "abc\n", "Allowed: text without control characters"),
        ("web_free", "a\nb", "Allowed: text without control characters"),
        ("web_names", ["a", "b\n"], "Allowed: text without control characters"),
        ("web_place", {"path": "/a\n"}, "Allowed: text without control characters"),
        ("web_notice", "a\0b", "Allowed: text without control characters"),
        ("web_names", ["a", "B"], "Allowed: what matches"),
        ("web_names", {"a": 1}, "Allowed: list."),
        ("web_doors", [{"port": 1}, {"port": 10}], "port of web_doors is 10."),
        ("web_doors", [{"port": 10}], "Allowed: 1 to 9."),
        ("web_place", {"path": "here"}, "path of web_place is 'here'."),
        ("web_names", 25, "web_names is 25."),
        ("web_names", "a,b", "web_names is 'a,b'."),
        ("web_names", [["a"]], "an element of web_names is a list."),
        ("web_name", ["abc"], "web_name is a list."),
        ("web_headers", "A=1", "web_headers is 'A=1'."),
        ("web_headers", '{"A": 1}', "Allowed: dict."),
        ("web_place", "path=/a", "web_place is 'path=/a'."),
        ("web_doors", ["port=1"], "an element of web_doors is 'port=1'."),
        ("web_rules", [{"from": "10.0.0.1"}], "from of web_rules is '10.0.0.1'.\n"),
        ("web_rules", [{"from": "10.0.0.1"}], "Allowed: list."),
        ("web_rules", [{"from": ["a\n"]}], r"from of web_rules has '\n' in it."),
        ("web_headers", {"A": "b\nc"}, r"A of web_headers has '\n' in it."),
        ("web_headers", {"A": {"B": ["c\r"]}}, r"B of A of web_headers has '\r' in it."),
        ("web_headers", {"A\n": "b"}, r"a key of web_headers has '\n' in it."),
        ("web_keys", {"A\n": "b"}, r"a key of web_keys has '\n' in it."),
        ("web_keys", {"A": "b\0"}, r"A of web_keys has '\x00' in it."),
        ("web_watch", "false", "web_watch is 'false'."),
        ("web_watch", 0, "Allowed: true or false without quotes."),
    ],
)
def test_bad_inputs_are_told_in_four_parts(name, value, told):
    _, problems = role_inputs.check_inputs("web", OPTIONS, {name: value})
    assert len(problems) == 1
    assert told in problems[0]
    assert "Input of the role web" in problems[0]
    assert f"Fix: set {name} in your inventory" in problems[0]


ROLES = {
    "preflight": {
        "preflight_app": ("{{ undef(hint='Set it') }}", "str", "Name. Allowed: /^[a-z]+$/."),
        "preflight_site": ("{{ undef(hint='Set it') }}", "raw", "Facts."),
    },
    "web": {
        "web_workers": (
            "{{ ansible_facts['cores'] * 2 + 1 }}",
            "int",
            "Workers. Allowed: 1 to 64.",
        ),
    },
    "store": {"store_mib": ("100", "int", "Memory. Allowed: 1 to 512.")},
}
# What a playbook hands over, the same expression for each entry.
WIRING = {
    "preflight_app": "{{ site_name }}",
    "preflight_site": {"site_name": "{{ site_name }}"},
    "preflight_roles": "{{ ['preflight', 'web'] + (['store'] if site_has_store else []) }}",
}


class HostVars(dict):
    """Ansible's hostvars, of which only the variables as they are written are asked."""

    def raw_get(self, entry: str) -> dict:
        """Return the variables of an entry."""
        return self[entry]


def trusted(value: str | dict) -> object:
    """Let Ansible compute a text, or those of a dictionary."""
    if isinstance(value, dict):
        return {name: trust_as_template(text) for name, text in value.items()}
    return trust_as_template(value)


@pytest.fixture
def resolve(tmp_path):
    """Return a function: what the plugin tells the entry `shop` of the entries of its machine."""
    for role, options in ROLES.items():
        for folder in ("defaults", "meta"):
            (tmp_path / role / folder).mkdir(parents=True)
        lines = [f'{name}: "{value}"' for name, (value, _, _) in options.items()]
        (tmp_path / role / "defaults/main.yml").write_text("\n".join(lines))
        lines = [
            f"      {name}: {{type: {kind}, description: '{text}'}}"
            for name, (_, kind, text) in options.items()
        ]
        head = "argument_specs:\n  main:\n    options:\n"
        (tmp_path / role / "meta/argument_specs.yml").write_text(head + "\n".join(lines))
    with (tmp_path / "preflight/meta/argument_specs.yml").open("a") as specs:
        specs.write("\n  site:\n    options:\n")
        specs.write("      site_name: {type: str, description: 'Its name. Allowed: /^[a-z]+$/.'}\n")

    def run(**entries: dict) -> dict:
        wiring = {name: trusted(value) for name, value in WIRING.items()}
        loader = DataLoader()
        task = SimpleNamespace(
            args={"entries": list(entries)},
            async_val=0,
            check_mode=False,
            _role=SimpleNamespace(_role_path=str(tmp_path / "preflight"), vars=wiring),
        )
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
        plugin = role_inputs.ActionModule(task, connection, None, loader, Templar(loader), None)
        mine = {"inventory_hostname": "shop", "ansible_facts": {"cores": 2}}
        mine["hostvars"] = HostVars(entries)
        return plugin.run(task_vars=entries["shop"] | wiring | mine)

    return run


SHOP = {"site_name": "shop", "site_has_store": True}
BLOG = {"site_name": "blog", "site_has_store": False}


def test_a_neighbour_is_wired_by_its_own_variables(resolve):
    inputs = resolve(shop=SHOP, blog=BLOG | {"web_workers": 7})["inputs"]
    shop = {"preflight_app": "shop", "site_name": "shop", "web_workers": 5, "store_mib": 100}
    assert inputs["shop"] == shop
    assert inputs["blog"] == {"preflight_app": "blog", "site_name": "blog", "web_workers": 7}


def test_a_neighbour_has_the_facts_of_its_machine(resolve):
    stale = {"ansible_facts": {"cores": 64}}
    for blog in (BLOG, BLOG | stale):
        assert resolve(shop=SHOP, blog=blog)["inputs"]["blog"]["web_workers"] == 5


def test_a_problem_of_a_neighbour_bears_its_name(resolve):
    told = resolve(shop=SHOP, blog=BLOG | {"web_workers": 65})["problems"]
    assert told["shop"] == []
    assert len(told["blog"]) == 1
    assert told["blog"][0].startswith("blog: web_workers is 65.")
    told = resolve(shop=SHOP | {"web_workers": 65}, blog=BLOG)["problems"]
    assert told["shop"][0].startswith("web_workers is 65.")
    assert told["blog"] == []


def test_a_fact_of_the_deployment_is_told_by_its_own_name(resolve):
    told = resolve(shop=SHOP | {"site_name": ["shop"]}, blog=BLOG)["problems"]["shop"]
    assert any(problem.startswith("site_name is a list.") for problem in told)
    told = resolve(shop=SHOP, blog=BLOG | {"site_name": "1"})["problems"]["blog"]
    assert any(problem.startswith("blog: site_name is '1'.") for problem in told)
