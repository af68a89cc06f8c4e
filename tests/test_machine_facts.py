"""What is gathered of a host is what the roles read, and nothing else."""

import os
import re
import subprocess

from plugins import ROLES, load

machine_facts = load("base/library/machine_facts.py")


def test_the_facts_that_are_gathered_are_those_that_are_read():
    texts = [path.read_text() for path in ROLES.glob("*/defaults/*.yml")]
    read = {fact for text in texts for fact in re.findall(r"ansible_facts\['(\w+)'\]", text)}
    assert read == set(machine_facts.USED)


def test_only_their_code_is_sent():
    """`ansible.module_utils.facts` would bring that of every fact, of every system."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROLES.parent / "ansible.cfg")}
    command = ["ansible", "-i", "localhost,", "-c", "local", "-m", "machine_facts", "all", "-vvvvv"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    sent = re.findall(r"Including module_utils file ansible/module_utils/facts/(\S+)", said.stdout)
    assert "hardware/linux.py" in sent
    assert not {name for name in sent if re.search("network|bsd|sunos|aix|other", name)}
