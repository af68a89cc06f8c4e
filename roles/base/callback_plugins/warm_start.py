"""Load what every task needs before the first one, and leave it to the forks as it is.

Ansible forks for each task. What is loaded before is shared; what is not, each fork loads anew. And
a fork whose garbage collector looks through all that it inherited copies the pages that it touches;
`gc.freeze` is Python's own remedy (https://docs.python.org/3/library/gc.html#gc.freeze). Together
a tenth of a second run.

Ansible packs a module with the library that it needs when the first task calls it, a quarter of a
second each, while the host waits. Here a process beside packs those of the playbook ahead, in the
order of its tasks, into the same cache.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator

from ansible import constants
from ansible.executor.module_common import modify_module
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.task import Task
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
    action_loader: ["debug", "fail", "normal", "validate_argument_spec", "write_files"],
    connection_loader: ["ssh"],
    lookup_loader: ["file", "template", "way_in"],
}


def actions(play: Play, part: list) -> Iterator[str]:
    """Name the actions of a play's blocks that the tags of this run leave."""
    for item in part:
        if isinstance(item, Block):
            yield from actions(play, [*item.block, *item.rescue, *item.always])
        elif is_wanted(item, play):
            yield item.action


def is_wanted(task: Task, play: Play) -> bool:
    """Tell whether the tags of this run leave a task; if they cannot be read here, they may."""
    try:
        return task.evaluate_tags(play.only_tags, play.skip_tags, {})
    except Exception:  # a template, say, of variables that only the run has
        return True


def pack(playbook: Playbook, run: int) -> None:
    """Pack the modules of a playbook, the first task's first, as long as its run lives.

    What fails here fails where its task runs, or does not matter: an action may have no module.

    :param run: the process id of that run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears it, and ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    compression = constants.DEFAULT_MODULE_COMPRESSION
    templar = Templar(loader=DataLoader())
    for name in modules(playbook):
        if os.getppid() != run:
            return
        with contextlib.suppress(Exception):
            modify_module(
                module_name=name,
                module_path=module_loader.find_plugin(name),
                module_args={},
                templar=templar,
                module_compression=compression,
            )


def modules(playbook: Playbook) -> list[str]:
    """Name what a playbook calls, each once."""
    names = []
    for play in playbook.get_plays():
        if play.gather_facts is not False:
            names += constants.config.get_config_value("FACTS_MODULES")
        names += actions(play, play.compile())
    return list(dict.fromkeys(names))


class CallbackModule(CallbackBase):
    """Does nothing but that."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "warm_start"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        """Load the plugins: all filters and tests, and the others by name; begin to pack."""
        for loader in (filter_loader, test_loader):
            list(loader.all())
        for loader, names in USED.items():
            for name in names:
                loader.get(name, class_only=True)
        fork = multiprocessing.get_context("fork")
        self.packer = fork.Process(target=pack, args=(playbook, os.getpid()), daemon=True)
        self.packer.start()

    def v2_playbook_on_play_start(self, play):
        """Take all that lives by now out of the collector's sight."""
        gc.freeze()

    def v2_playbook_on_stats(self, stats):
        """Leave nobody behind."""
        self.packer.terminate()
        self.packer.join()
