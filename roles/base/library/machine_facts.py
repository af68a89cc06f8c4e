#!/usr/bin/python
"""Gather the facts that the roles use, and nothing else, by Ansible's own code.

The module `setup` has no smaller parts than `hardware`, which looks at every mount, device and
volume for what processors and memory say, and `platform`, which asks DNS for the host's name.
"""

from __future__ import annotations

import platform

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.facts.hardware.linux import LinuxHardware
from ansible.module_utils.facts.system.distribution import DistributionFactCollector
from ansible.module_utils.facts.system.service_mgr import ServiceMgrFactCollector
from ansible.module_utils.facts.virtual.linux import LinuxVirtual

USED = (
    "distribution_release",
    "memtotal_mb",
    "processor_vcpus",
    "service_mgr",
    "userspace_bits",
    "virtualization_tech_guest",
)


def machine_facts(module: AnsibleModule) -> dict:
    """Return the facts that are used, by the names that `setup` gives them."""
    known = {"ansible_system": platform.system(), "ansible_architecture": platform.machine()}
    hardware = LinuxHardware(module)
    facts = {
        "userspace_bits": platform.architecture()[0].removesuffix("bit"),
        **DistributionFactCollector().collect(module, known),
        **ServiceMgrFactCollector().collect(module, known),
        **LinuxVirtual(module).populate(known),
        **hardware.get_cpu_facts(known),
        **hardware.get_memory_facts(),
    }
    return {name: facts[name] for name in USED if name in facts}


def main() -> None:
    """Answer as `setup` does."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(ansible_facts=machine_facts(module))


if __name__ == "__main__":
    main()
