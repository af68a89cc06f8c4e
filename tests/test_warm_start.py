"""Modules are packed beside the run, before their tasks come, and with their bytecode."""

import base64
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible.executor.module_common import _CachedModule

from plugins import load

PROJECT = Path(__file__).parents[1]
PLAYBOOK = r"""
- hosts: localhost
  gather_facts: false
  vars: {mine: [one]}
  tasks:
    - ansible.builtin.debug: {msg: so a task without a module is passed by}
    - name: Wait until all is packed, the last module too
      ansible.builtin.debug: {msg: waits}
      until: lookup('pipe', 'ls ' ~ wait_for ~ '/*/ansiballz*') is search('stat-\w+-none(\n|$)')
      retries: 120
      delay: 0.5
      when: wait_for | length > 0
    - block:
        - ansible.builtin.gather_facts:
        - ansible.builtin.ping:
        - where_from:
          register: library
        - ansible.builtin.debug: {msg: "The library is {{ library.file }}"}
    - ansible.builtin.tempfile:
      tags: [never]
    - ansible.builtin.stat: {path: /}
      when: wait_for | length == 0
    - ansible.builtin.debug: {msg: a tag that only the run can read}
      tags: "{{ mine }}"
"""
WHERE_FROM = """
from ansible.module_utils import basic

basic.AnsibleModule({}).exit_json(file=basic.__file__)
"""


def run(folder: Path, waits: bool, **environment: str) -> str:
    """Run the playbook, which may wait for all to be packed; return what Ansible says of that."""
    (folder / "library").mkdir()
    (folder / "library/where_from.py").write_text(WHERE_FROM)
    (folder / "playbook.yml").write_text(PLAYBOOK)
    (folder / "tmp").mkdir()
    ours = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_DEBUG": "1"}
    libraries = f"library:{PROJECT / 'roles/base/library'}"
    here = {"ANSIBLE_LIBRARY": libraries, "ANSIBLE_LOCAL_TEMP": str(folder / "tmp")}
    variables = (
        f"ansible_python_interpreter={sys.executable} wait_for={folder / 'tmp' if waits else ''}"
    )
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", variables, "playbook.yml"],
        cwd=folder,
        env={**os.environ, **ours, **here, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_task_finds_its_module_packed(tmp_path):
    said = run(tmp_path, waits=True)
    (packer,) = set(re.findall(r"(\d+) [\d.]+: ANSIBALLZ: Creating module", said))
    took = re.search(r"(\d+) [\d.]+: ANSIBALLZ: (using cached module|Reading module after)", said)
    assert took[1] != packer
    assert re.search(r"The library is \S+/ansible/module_utils/basic.pyc", said)


def test_without_it_the_task_packs_its_module(tmp_path):
    """This is what the test above would see if nothing were packed ahead."""
    said = run(tmp_path, waits=False, ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_roles")
    assert "ANSIBALLZ: using cached module" not in said
    assert re.search(r"The library is \S+/ansible/module_utils/basic.py\b", said)


def test_the_bytecode_can_be_left_out(tmp_path):
    said = run(tmp_path, waits=True, WARM_START_BYTECODE="false")
    assert re.search(r"The library is \S+/ansible/module_utils/basic.py\b", said)


@pytest.mark.parametrize(
    ("magic", "taken"), [(importlib.util.MAGIC_NUMBER, "pyc"), (b"\0\0\r\n", "py")]
)
def test_another_python_takes_the_source(tmp_path, monkeypatch, magic, taken):
    """The first is this one."""
    archive, packed = tmp_path / "packed.zip", tmp_path / "packed"
    with zipfile.ZipFile(archive, "w") as sources:
        for name in ("ansible/__init__.py", "ansible/module_utils/__init__.py"):
            sources.writestr(name, "")
        for name in ("ansible/module_utils/where.py", "module.py"):
            sources.writestr(name, "print(__file__)")
    zip_data = base64.b64encode(archive.read_bytes())
    _CachedModule(zip_data=zip_data, metadata=None, source_mapping={}).dump(str(packed))
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", magic)
    load("base/callback_plugins/warm_start.py").add_bytecode(packed, {})
    archive.write_bytes(base64.b64decode(_CachedModule.load(str(packed)).zip_data))
    command = [sys.executable, "-c", "import ansible.module_utils.where, module"]
    environment = {**os.environ, "PYTHONPATH": str(archive)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    library = f"{archive}/ansible/module_utils/where.{taken}"
    assert said.stdout.split() == [library, f"{archive}/module.py"]
