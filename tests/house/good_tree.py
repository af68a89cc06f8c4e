"""The smallest tree that keeps every rule: roles `web` and `store`, one scenario, one decision."""

from pathlib import Path

FILES = {
    "README.md": "# Harbour\n\nSee [the first decision](docs/decisions/0001-two-roles.md).\n",
    "docs/decisions/0001-two-roles.md": "# Two roles\n\n## Context\n\n## Decision\n\n## Price\n",
    "docs/running.md": """\
# Running

The test: `molecule/tests/test_web.py`.

<!-- executed by: molecule/tests/test_web.py -->
```sh
host service web        # is it running?
```

<!-- executed by: molecule/docs, on the server -->
```sh
web --version
```

<!-- printed by: the block above -->
```
web 1.0
```

<!-- not executed: it removes all that there is -->
```sh
rm -r /srv/store
```

```yaml
# inventory/mine/hosts.yml
pages: {hosts: {vps: {ansible_host: 203.0.113.10, web_workers: 2}}}
```

```
vps is refused.
Fix: restart web, then look again at 10:00.
```

| Message | What to do |
|---|---|
| `Sum … up` | read on |
| `Connection refused` | start it |

| Alert | Fires when |
|---|---|
| `WebDown` | nobody answers |
| `DiskFull` | no file can grow |

<!-- said by others:
Connection refused
-->
""",
    "molecule/docs/tests/reader.py": "",
    "site.yml": """\
- name: Serve the pages
  ansible.builtin.import_playbook: playbooks/pages.yml
""",
    "playbooks/pages.yml": """\
- name: Serve the pages
  hosts: pages
  become: true
  roles:
    - role: web
      tags: [web]
      vars:
        web_user: "{{ site_user }}"
    - role: store
      tags: [store]
""",
    "playbooks/empty-store.yml": """\
- name: Empty the store
  hosts: pages
  tasks:
    - name: Remove everything
      ansible.builtin.file:
        path: /srv/store
        state: absent
""",
    "inventory/group_vars/all/vault.yml": """\
site_api_token: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  3061
site_greeting: !unsafe "{{ ansible_hostname }}"
""",
    "roles/web/README.md": "# web\n\nThe unit: `templates/web.service.j2`.\n",
    "roles/web/defaults/main.yml": """\
web_user: "{{ undef(hint='Set web_user where you call this role') }}"
web_workers: "{{ ansible_facts['processor_vcpus'] }}"
web_secure_logging: true
""",
    "roles/web/meta/argument_specs.yml": """\
argument_specs:
  main:
    options:
      web_user:
        type: str
        required: true
        description: "User the workers run as. Allowed: /^[a-z]+$/."
      web_workers:
        type: int
        description: "Number of workers. Allowed: 1 to 256."
      web_secure_logging:
        type: bool
        description: Whether secrets are kept out of the log.
""",
    "roles/web/tasks/main.yml": """\
- name: Configure the web server
  ansible.builtin.import_tasks: configure.yml
""",
    "roles/web/tasks/configure.yml": """\
- name: configure | Write the unit
  ansible.builtin.template:
    src: web.service.j2
    dest: /etc/systemd/system/web.service
    mode: "0644"
  no_log: "{{ web_secure_logging }}"
  notify: Restart web

- name: configure | Write the alerts
  ansible.builtin.template:
    src: rules.yml.j2
    dest: /etc/web/rules.yml
    mode: "0644"

- name: configure | Refuse what cannot work
  ansible.builtin.fail:
    msg: |-
      {{ inventory_hostname }} is refused.
      Fix: restart web, then look again at {{ web_time }}.

- name: configure | Read the version
  ansible.builtin.command: web --version
  register: __web_version
  changed_when: false

# No module reads this file.
- name: configure | Sum the file up
  ansible.builtin.shell: sort /etc/web | uniq
  changed_when: false
""",
    "roles/web/handlers/main.yml": """\
- name: Restart web
  ansible.builtin.systemd_service:
    name: web
    state: restarted
""",
    "roles/web/templates/web.service.j2": """\
{{ ansible_managed | comment }}
# Source: roles/web/templates/web.service.j2

[Service]
User={{ web_user }}
""",
    "roles/web/templates/rules.yml.j2": """\
{{ ansible_managed | comment }}
# Source: roles/web/templates/rules.yml.j2

groups:
  - name: web
    rules:
      - alert: WebDown
        expr: up == 0
{% for name, percent in __web_alerts %}
      - alert: {{ name }}
        expr: used > {{ percent }}
{% endfor %}
""",
    "roles/web/vars/main.yml": "__web_alerts: [[DiskFull, 90]]\n",
    "roles/store/README.md": "# store\n",
    "roles/store/defaults/main.yml": "store_path: /srv/store\n",
    "roles/store/meta/argument_specs.yml": """\
argument_specs:
  main:
    options:
      store_path:
        type: path
        description: Folder that holds everything.
""",
    "roles/store/tasks/main.yml": """\
- name: Create the folder
  ansible.builtin.import_tasks: create.yml
""",
    "roles/store/tasks/create.yml": """\
- name: create | Create the folder
  ansible.builtin.file:
    path: "{{ store_path }}"
    state: directory
    mode: "0755"
""",
    "molecule/default/molecule.yml": """\
platforms:
  - name: vps
    groups: [pages]
verifier:
  name: testinfra
  directory: ../tests
""",
    "molecule/faults/molecule.yml": """\
platforms:
  - name: vps
    groups: [pages]
scenario:
  # There is no idempotence here: every step breaks something on purpose.
  test_sequence: [create, converge, side_effect, verify, destroy]
verifier:
  name: testinfra
  directory: ../tests
""",
    "molecule/faults/tests/test_alerts.py": """\
import pytest


@pytest.mark.parametrize(("alert", "broken"), [("DiskFull", "fallocate --length 9G /ballast")])
def test_an_alert_fires_until_it_is_well(host, watch, alert, broken):
    host.check_output(broken)
    assert watch.fires(alert)
    host.check_output("rm /ballast")
    assert watch.clears(alert)


def test_a_server_that_stands_still_fires(host, watch):
    assert watch.clears("WebDown")
    host.check_output("systemctl stop web")
    assert watch.fires("WebDown")
    host.check_output("systemctl start web")
    assert watch.clears("WebDown")
""",
    "molecule/tests/test_web.py": """\
def test_the_service_is_running(host):
    assert host.service("web").is_running
""",
    "molecule/tests/test_store.py": """\
def test_the_folder_is_there(host):
    assert host.file("/srv/store").is_directory
""",
}


def build(root: Path) -> None:
    """Write the tree below a folder."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
