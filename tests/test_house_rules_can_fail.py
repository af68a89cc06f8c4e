"""Every house rule accepts a good tree and notices when that tree goes bad."""

import pytest

from house import RULES, good_tree
from house.tree import Offence, report

SPECS = "roles/web/meta/argument_specs.yml"
DEFAULTS = "roles/web/defaults/main.yml"
CONFIGURE = "roles/web/tasks/configure.yml"
HANDLERS = "roles/web/handlers/main.yml"
TEMPLATE = "roles/web/templates/web.service.j2"
PLAYBOOK = "playbooks/pages.yml"
SCENARIO = "molecule/default/molecule.yml"
RULES_OF_ALERTS = "roles/web/templates/rules.yml.j2"
TEST = "molecule/tests/test_web.py"
ALERTS = "molecule/faults/tests/test_alerts.py"
PAGE = "docs/running.md"
DECISION = "docs/decisions/0001-two-roles.md"

# rule: every way to break it, as (file, old text, new text, what the offence must say).
# An empty old text writes in front of the file, and creates it where there is none.
BROKEN = {
    "defaults_and_specs_name_the_same_inputs": [
        (DEFAULTS, "", "web_port: 80\n", "web_port has no spec"),
        (DEFAULTS, "web_secure_logging: true\n", "", "web_secure_logging has no default"),
    ],
    "inputs_carry_the_name_of_their_role": [
        (DEFAULTS, "web_workers", "workers", "workers does not carry"),
    ],
    "required_inputs_are_undefined_with_a_hint": [
        (DEFAULTS, "hint='Set web_user where you call this role'", "", "without a hint"),
        (DEFAULTS, "{{ undef", "{{ print", "has a value"),
        (SPECS, "        required: true\n", "", "undefined, yet not required"),
    ],
    "specs_hold_no_defaults": [
        (SPECS, "type: bool", "type: bool\n        default: true", "second default"),
        (SPECS, "type: bool", "type: dict\n        options: {on: {default: 1}}", "second default"),
    ],
    "options_have_a_type_and_a_description": [
        (SPECS, "        type: bool\n", "", "no type"),
        (SPECS, "out of the log.", "out of the log", "not described in a sentence"),
    ],
    "options_state_their_bounds": [
        (SPECS, " Allowed: 1 to 256.", "", "without a range"),
        (SPECS, "1 to 256.", "1-256.", "without a range"),
        (SPECS, "1 to 256.", "256 to 1.", "without a range"),
        (SPECS, "/^[a-z]+$/", "lower case", "nobody can read"),
        (SPECS, "/^[a-z]+$/", "/^[a-z+$/", "nobody can read"),
    ],
    "inputs_are_cast_where_they_count": [
        (TEMPLATE, "{{ web_user }}", "{{ web_workers + 1 }}", "web_workers may be a text"),
        (
            TEMPLATE,
            "{{ web_user }}",
            "{{ 1 if web_workers > 2 else 0 }}",
            "web_workers may be a text",
        ),
        (TEMPLATE, "{{ web_user }}", "{{ 1 if web_secure_logging else 2 }}", "may be a text"),
        (TEMPLATE, "{{ web_user }}", "{{ not web_secure_logging }}", "may be a text"),
        (CONFIGURE, "changed_when: false", "when: 0 or web_secure_logging", "may be a text"),
    ],
    "roles_know_only_themselves": [
        (TEMPLATE, "{{ web_user }}", "{{ store_path }}", "role web reads store_path"),
        (TEMPLATE, "{{ web_user }}", "{{ site_user }}", "reads site_user"),
        (TEMPLATE, "{{ web_user }}", "{{ groups['pages'] }}", "reads groups"),
        (CONFIGURE, "changed_when: false", "when: __store_found.changed", "reads __store_found"),
        (DEFAULTS, "ansible_facts[", "hostvars[", "reads hostvars"),
    ],
    "facts_enter_a_role_in_its_defaults": [
        (TEMPLATE, "{{ web_user }}", "{{ ansible_facts['user_id'] }}", "outside the defaults"),
        (CONFIGURE, "changed_when: false", "when: ansible_facts.fips", "outside the defaults"),
    ],
    "facts_are_not_injected": [
        (DEFAULTS, "ansible_facts['processor_vcpus']", "ansible_processor_vcpus", "injected fact"),
    ],
    "secrets_are_never_literals": [
        (PLAYBOOK, "web_user:", "web_password: hunter2\n        web_user:", "is a literal"),
        ("inventory/host_vars/vps.yml", "", 'web_api_token: ""\n', "is a literal"),
        ("compose.yaml", "", "environment: {DB_PASSWORD: x}\n", "is a literal"),
    ],
    "logging_of_secrets_has_one_switch_per_role": [
        (CONFIGURE, '"{{ web_secure_logging }}"', "true", "no_log is True"),
    ],
    "main_is_a_table_of_contents": [
        ("roles/web/tasks/main.yml", "import_tasks", "debug", "more than imports"),
    ],
    "task_names_lead_to_their_file": [
        (CONFIGURE, "configure | Write the unit", "Write the unit", "does not lead"),
        (CONFIGURE, "configure | Write the unit", "configure | write the unit", "does not lead"),
        (CONFIGURE, "configure | Write the unit", "install | Write the unit", "does not lead"),
    ],
    "names_say_what_is_done": [
        (CONFIGURE, "Write the unit", "Ensure the unit", "is vague"),
        (HANDLERS, "Restart web", "Make sure web restarts", "is vague"),
        (PLAYBOOK, "Serve the pages", "Handle the pages", "is vague"),
        ("site.yml", "Serve the pages", "Handle the pages", "is vague"),
    ],
    "handlers_are_few_named_and_notified": [
        (HANDLERS, "Restart web", "web", "not Verb service"),
        (CONFIGURE, "  notify: Restart web\n", "", "nobody notifies the handler 'Restart web'"),
        (HANDLERS, "", "- name: Stop web\n" * 3, "more than 3 handlers"),
    ],
    "last_resorts_say_why": [
        (CONFIGURE, "# No module reads this file.\n", "", "shell without a reason"),
        (CONFIGURE, "# No module reads this file.\n", "# noqa command-instead\n", "shell without"),
        (CONFIGURE, "register:", "ignore_errors: true\n  register:", "ignore_errors without"),
    ],
    "internals_carry_a_double_underscore": [
        (CONFIGURE, "register: __web_version", "register: web_version", "web_version looks"),
        (CONFIGURE, "register:", "loop_control: {loop_var: user}\n  register:", "user looks"),
        (CONFIGURE, "register:", "vars: {web_user: me}\n  register:", "web_user looks"),
        (CONFIGURE, "", "- ansible.builtin.set_fact: {web_user: me}\n", "web_user looks"),
        ("roles/web/vars/main.yml", "", "web_group: www\n", "web_group looks"),
    ],
    "tags_stay_in_the_playbooks": [
        (CONFIGURE, "register:", "tags: [version]\n  register:", "its own tag"),
    ],
    "templates_name_themselves": [
        (TEMPLATE, "{{ ansible_managed | comment }}\n", "", "Ansible owns it"),
        (TEMPLATE, "Source: roles/web", "Source: roles/store", "does not name its source"),
        ("roles/web/templates/web.conf", "", "x", "without .j2"),
    ],
    "templates_never_fall_back": [
        (TEMPLATE, "web_user }}", "web_user | default('www') }}", "calls default()"),
        (TEMPLATE, "web_user }}", "web_user | d('www') }}", "calls default()"),
    ],
    "templates_are_used": [
        (CONFIGURE, "src: web.service.j2", "src: other-web.service.j2", "no task uses"),
    ],
    "site_only_imports": [
        ("site.yml", "", "- hosts: all\n", "holds a play"),
    ],
    "playbooks_have_telling_names": [
        ("playbooks/Deploy_all.yml", "", "- hosts: all\n", "neither noun nor verb-noun"),
    ],
    "nouns_hold_only_wiring": [
        (PLAYBOOK, "  roles:", "  tasks: []\n  roles:", "tasks in a playbook"),
        ("playbooks/empty-store.yml", "  tasks:", "  vars_files: []\n  tasks:", "vars_files in a"),
    ],
    "roles_are_called_with_their_tag": [
        (PLAYBOOK, "tags: [store]", "tags: [web]", "store lacks its tag"),
        (PLAYBOOK, "role: store\n      tags: [store]", "store", "store lacks its tag"),
    ],
    "roles_are_complete": [
        ("roles/mail/defaults/main.yml", "", "{}\n", "role mail lacks this file"),
    ],
    "role_readmes_are_short": [
        ("roles/web/README.md", "", "line\n" * 38, "41 lines"),
    ],
    "scenarios_verify_with_testinfra": [
        (SCENARIO, "name: testinfra", "name: ansible", "default verifies nothing"),
        (SCENARIO, "../tests", "../nowhere", "default verifies nothing"),
    ],
    "platforms_are_in_groups": [
        (SCENARIO, "groups: [pages]", "groups: []", "vps is in no group"),
    ],
    "every_knob_is_moved_once": [
        ("molecule/override/inventory/knobs.yml", "", "all: {}\n", "web_workers is never moved"),
    ],
    "scenarios_run_twice": [
        (SCENARIO, "", "scenario: {test_sequence: [converge, verify]}\n", "never seen"),
        ("molecule/faults/molecule.yml", "# There is no idempotence", "# No reason", "never seen"),
    ],
    "tests_are_sentences": [
        (TEST, "test_the_service_is_running", "test_service", "not a sentence"),
    ],
    "tests_assert_something": [
        (TEST, "assert host", "host", "cannot fail"),
    ],
    "tests_are_never_excused": [
        (TEST, "def", "@pytest.mark.skipif(True)\ndef", "calls skipif"),
        (TEST, "    assert", "    pytest.skip('later')\n    assert", "calls skip"),
    ],
    "assertions_ask_a_question": [
        (TEST, ".is_running", "", "is always true"),
        (TEST, 'host.service("web").is_running', 'not (host.file("/") or 1)', "is always true"),
    ],
    "nothing_is_left_for_later": [
        ("README.md", "", "TO" + "DO\n", "is left in the file"),
    ],
    "no_path_of_a_developers_machine_leaks": [
        ("README.md", "", "cd /wor" + "k/main\n", "is a path of one machine"),
        (TEMPLATE, "[Service]", "[Service]\nX=/roo" + "t/.cache", "is a path of one machine"),
    ],
    "yaml_files_end_in_yml": [
        ("playbooks/mail.yaml", "", "- hosts: all\n", "ends in .yaml"),
    ],
    "yaml_holds_no_tabs": [
        (PLAYBOOK, "", "#\tSee below\n", "a tab"),
    ],
    "the_readme_is_one_screen": [
        ("README.md", "", "line\n" * 80, "83 lines"),
    ],
    "decisions_are_numbered_in_order": [
        ("docs/decisions/0003-more.md", "", "# More\n", "0003-more.md is out of order"),
    ],
    "decisions_are_half_a_page_with_a_price": [
        (DECISION, "## Price", "## Gain", "no heading Price"),
        (DECISION, "## Price", "## Price\n" + "line\n" * 60, "too many"),
    ],
    "links_lead_somewhere": [
        ("README.md", "0001-two-roles.md", "0001-one-role.md", "does not exist"),
        ("README.md", "0001-two-roles.md", "0001-two-roles.md#cost", "is no heading"),
        ("README.md", "docs/decisions/0001-two-roles.md", "#harbor", "is no heading"),
    ],
    "commands_are_executed_or_say_why_not": [
        (PAGE, "<!-- not executed: it removes all that there is -->\n", "", "nobody has run"),
        (PAGE, "it removes all that there is", "dangerous", "is no reason"),
        (PAGE, "it removes all that", "see tests/test_gone.py, that", "is no reason"),
        (PAGE, "by: molecule/tests/test_web", "by: molecule/tests/test_gone", "does not exist"),
        (PAGE, "host service web", "host service --restart web", "the words --restart"),
        (
            TEST,
            'service("web").is_running',
            'file("x").exists  # service web',
            "words service, web",
        ),
        (
            TEST,
            'assert host.service("web")',
            '"""service web"""\n    assert host.x',
            "words service",
        ),
        (TEST, 'assert host.service("web")', "assert 'docs/running.md', host.x", "words service"),
        (PAGE, ", on the server", ", at noon", "is not how a block can be run"),
        (PAGE, "executed by: molecule/docs", "not executed: for no good reason", "block above"),
        (PAGE, "# Running", "# Running\n\n```\nsudo reboot\n```", "without a language"),
    ],
    "yaml_on_pages_names_what_there_is": [
        (PAGE, "web_workers:", "web_worker:", "there is no input web_worker"),
        (PAGE, "web_workers: 2", "web_workers: many", "web_workers"),
        (PAGE, "pages: {", "pages: x: {", "is no YAML"),
    ],
    "paths_on_pages_exist": [
        (PAGE, "`molecule/tests/test_web", "`molecule/tests/test_gone", "does not exist"),
        ("roles/web/README.md", "web.service.j2", "web.socket.j2", "does not exist"),
    ],
    "quoted_messages_are_said": [
        (PAGE, "Sum … up", "Sum … down", "nothing says"),
        (PAGE, "then look again", "then wait again", "nothing says"),
        (PAGE, "| `Connection refused` | start it |\n", "", "is quoted nowhere"),
    ],
    "alerts_are_seen_and_listed": [
        (RULES_OF_ALERTS, "WebDown", "WebGone", "WebGone was never seen"),
        ("roles/web/vars/main.yml", "DiskFull", "DiskSlow", "DiskSlow stands in no table"),
        (ALERTS, "fires(alert)", "firing(alert)", "DiskFull was never seen"),
        (ALERTS, "assert watch.clears(alert)", "assert True", "DiskFull was never seen"),
        (
            ALERTS,
            'start web")\n    assert watch.clears',
            'x")\n    assert watch.fires',
            "never seen",
        ),
        (PAGE, "`DiskFull`", "the disk", "DiskFull stands in no table"),
        (PAGE, "`WebDown`", "`WebGone`", "there is no alert WebGone"),
    ],
}


@pytest.fixture
def tree(tmp_path):
    """Build the good tree."""
    good_tree.build(tmp_path)
    return tmp_path


def test_every_rule_is_broken_here():
    assert {rule.__name__ for rule in RULES} == BROKEN.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_tree_keeps_the_rule(rule, tree):
    assert list(rule(tree)) == []


@pytest.mark.parametrize(
    ("rule", "name", "old", "new", "said"),
    [
        pytest.param(rule, *broken, id=f"{rule.__name__}-{broken[-1]}")
        for rule in RULES
        for broken in BROKEN.get(rule.__name__, [])
    ],
)
def test_a_broken_tree_offends_the_rule(rule, name, old, new, said, tree):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    assert old in text
    path.write_text(text.replace(old, new, 1))

    assert any(said in offence.wrong for offence in rule(tree))


READS_THE_PAGE = """\
PAGE = ROOT / "docs/running.md"


def test_the_steps_are_done(host):
    assert below("Running", PAGE.read_text())
"""


@pytest.mark.parametrize(
    ("old", "new", "is_wrong"),
    [
        ("", "", False),
        (".read_text()", ".name", True),  # it names the page, and reads nothing
        ("docs/running.md", "docs/other.md", True),
        ('"Running"', '"Walking"', True),  # it reads other commands
    ],
)
def test_a_test_has_the_words_of_a_block_that_it_reads(tree, old, new, is_wrong):
    (tree / TEST).write_text(READS_THE_PAGE.replace(old, new))
    (rule,) = [rule for rule in RULES if rule.__name__ == "commands_are_executed_or_say_why_not"]
    assert bool(list(rule(tree))) == is_wrong


def test_a_report_says_where_and_how_to_fix_it(tree):
    offence = Offence(tree / PLAYBOOK, 7, "it is wrong.", "mend it.")
    assert report([offence], tree) == "playbooks/pages.yml:7 it is wrong. Fix: mend it."
