"""roles/base/callback_plugins/warm_start.py: modules are packed before a task asks for them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.wait_for: {timeout: 3}
    - block:
        - ansible.builtin.ping:
"""


def test_a_module_lies_packed_when_its_task_comes(tmp_path):
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    settings = {"CONFIG": str(ROOT / "ansible.cfg"), "DEBUG": "1", "TRANSPORT": "local"}
    ran = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", playbook],
        env=os.environ | {f"ANSIBLE_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    before, _, after = ran.stdout.partition("TASK [ansible.builtin.ping]")
    assert before
    assert "/ansiballz_cache/ansible.modules.ping-" in after
    assert "ANSIBALLZ: Creating module" not in after
