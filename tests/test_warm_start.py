"""Modules are packed beside the run, before their tasks come."""

import os
import re
import subprocess
import sys
from pathlib import Path

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
    - ansible.builtin.tempfile:
      tags: [never]
    - ansible.builtin.debug: {msg: a tag that only the run can read}
      tags: "{{ mine }}"
"""


def run(folder: Path, **environment: str) -> str:
    """Run the playbook; return what Ansible says of its cache of packed modules."""
    (folder / "playbook.yml").write_text(PLAYBOOK)
    ours = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_DEBUG": "1"}
    interpreter = f"ansible_python_interpreter={sys.executable}"
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter, "playbook.yml"],
        cwd=folder,
        env={**os.environ, **ours, "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_task_finds_its_module_packed(tmp_path):
    said = run(tmp_path)
    (packer,) = re.findall(r"(\d+) [\d.]+: ANSIBALLZ: Creating module", said)
    took = re.search(r"(\d+) [\d.]+: ANSIBALLZ: (using cached module|Reading module after)", said)
    assert took[1] != packer


def test_without_it_the_task_packs_its_module(tmp_path):
    """This is what the test above would see if nothing were packed ahead."""
    said = run(tmp_path, ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_roles")
    assert "ANSIBALLZ: using cached module" not in said
