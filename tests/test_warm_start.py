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
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  vars: {mine: [one]}
  tasks:
    - ansible.builtin.debug: {msg: so a task without a module is passed by}
    - ansible.builtin.pause: {seconds: 3}
    - block:
        - ansible.builtin.ping:
        - where_from:
          register: library
        - ansible.builtin.debug: {msg: "The library is {{ library.file }}"}
    - ansible.builtin.tempfile:
      tags: [never]
    - ansible.builtin.debug: {msg: a tag that only the run can read}
      tags: "{{ mine }}"
"""
WHERE_FROM = """
from ansible.module_utils import basic

basic.AnsibleModule({}).exit_json(file=basic.__file__)
"""


def run(folder: Path, **environment: str) -> str:
    """Run the playbook; return what Ansible says of its cache of packed modules."""
    (folder / "library").mkdir()
    (folder / "library/where_from.py").write_text(WHERE_FROM)
    (folder / "playbook.yml").write_text(PLAYBOOK)
    ours = {
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_DEBUG": "1",
        "ANSIBLE_LIBRARY": "library",
    }
    here = {"ANSIBLE_LIBRARY": "library", "ANSIBLE_LOCAL_TEMP": str(folder / "tmp")}
    interpreter = f"ansible_python_interpreter={sys.executable}"
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter, "playbook.yml"],
        cwd=folder,
        env={**os.environ, **ours, **here, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_task_finds_its_module_packed(tmp_path):
    said = run(tmp_path)
    (packer,) = set(re.findall(r"(\d+) [\d.]+: ANSIBALLZ: Creating module", said))
    took = re.search(r"(\d+) [\d.]+: ANSIBALLZ: (using cached module|Reading module after)", said)
    assert took[1] != packer
    assert re.search(r"The library is \S+/ansible/module_utils/basic.pyc", said)


def test_without_it_the_task_packs_its_module(tmp_path):
    """This is what the test above would see if nothing were packed ahead."""
    said = run(tmp_path, ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_roles")
    assert "ANSIBALLZ: using cached module" not in said
    assert re.search(r"The library is \S+/ansible/module_utils/basic.py\b", said)


@pytest.mark.parametrize(
    ("magic", "taken"), [(importlib.util.MAGIC_NUMBER, "pyc"), (b"\0\0\r\n", "py")]
)
def test_another_python_takes_the_source(tmp_path, monkeypatch, magic, taken):
    """The first is this one."""
    archive, packed = tmp_path / "packed.zip", tmp_path / "packed"
    with zipfile.ZipFile(archive, "w") as sources:
        sources.writestr("where.py", "print(__file__)")
    zip_data = base64.b64encode(archive.read_bytes())
    _CachedModule(zip_data=zip_data, metadata=None, source_mapping={}).dump(str(packed))
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", magic)
    load("base/callback_plugins/warm_start.py").add_bytecode(packed, {})
    archive.write_bytes(base64.b64decode(_CachedModule.load(str(packed)).zip_data))
    command = [sys.executable, "-c", "import where"]
    environment = {**os.environ, "PYTHONPATH": str(archive)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"{archive}/where.{taken}"
