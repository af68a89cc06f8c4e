"""Do early, and once, what Ansible would do again for every task.

Ansible forks for each task. What is loaded before is shared; what is not, each fork loads anew. And
a fork whose garbage collector looks through all that it inherited copies the pages that it touches;
`gc.freeze` is Python's own remedy (https://docs.python.org/3/library/gc.html#gc.freeze).

Each fork also packs the module of its task, with all that the module imports, before it sends it:
unless it lies packed in the run's own cache. Another process fills that cache meanwhile, on another
core. Whatever it cannot do, the task does itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal

from ansible import constants
from ansible.executor.module_common import modify_module
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.block import Block
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import (
    action_loader,
    connection_loader,
    filter_loader,
    lookup_loader,
    module_loader,
    test_loader,
)
from ansible.template import Templar

USED = {
    action_loader: ["debug", "fail", "normal", "validate_argument_spec"],
    connection_loader: ["ssh"],
    lookup_loader: ["file", "template", "way_in"],
}


def actions(blocks):
    """Name the actions of blocks, in their order."""
    for entry in blocks:
        if isinstance(entry, Block):
            yield from actions([*entry.block, *entry.rescue, *entry.always])
        else:
            yield entry.resolved_action or entry.action


def modules_of(playbook):
    """Name the modules of a playbook, each once, in the order of their use."""
    names = ["ansible.builtin.setup"]
    for play in playbook.get_plays():
        names += actions(play.compile())
    return dict.fromkeys(names)


def pack(playbook):
    """Put the playbook's modules into the cache of this run."""
    templar = Templar(DataLoader(), variables={})
    compression = constants.config.get_config_value("DEFAULT_MODULE_COMPRESSION")
    for name in modules_of(playbook):
        found = module_loader.find_plugin_with_context(name, ".py")
        if found.resolved:
            modify_module(
                module_name=name,
                module_path=found.plugin_resolved_path,
                module_args={},
                templar=templar,
                task_vars={"ansible_python_interpreter": "/usr/bin/python3"},
                module_compression=compression,
            )


class CallbackModule(CallbackBase):
    """Does nothing but that."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "warm_start"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        """Load the plugins: all filters and tests, and the others by name. Begin to pack."""
        for loader in (filter_loader, test_loader):
            list(loader.all())
        for loader, names in USED.items():
            for name in names:
                loader.get(name, class_only=True)
        process = os.fork()
        if process:
            atexit.register(self._end, process)
            return
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            pack(playbook)
        finally:
            os._exit(0)  # none of the parent's own endings

    def v2_playbook_on_play_start(self, play):
        """Take all that lives by now out of the collector's sight."""
        gc.freeze()

    @staticmethod
    def _end(process):
        """End the one that packs, before Ansible removes the cache."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
