"""Load what every task needs before the first one, and leave it to the forks as it is.

Ansible forks for each task. What is loaded before is shared; what is not, each fork loads anew. And
a fork whose garbage collector looks through all that it inherited copies the pages that it touches;
`gc.freeze` is Python's own remedy (https://docs.python.org/3/library/gc.html#gc.freeze). Together
a tenth of a second run.

Ansible packs a module with the library that it needs when the first task calls it, a quarter of a
second each, while the host waits. Here a process beside packs those of the playbook ahead, in the
order of its tasks, into the same cache. It then adds the library's bytecode: a host with Python of
the version of this one need not compile some fifty files for each task; others take the source.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import gc
import importlib.util
import io
import marshal
import multiprocessing
import os
import signal
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ansible import constants
from ansible.executor import module_common
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

DOCUMENTATION = """
name: warm_start
type: aggregate
short_description: loads and packs ahead what the tasks of a run need
description: See docs/decisions/0008-few-round-trips.md.
options:
  bytecode:
    description: Whether modules are sent with their library's bytecode, 0.3 MB more for each task.
    type: bool
    default: true
    ini: [{section: callback_warm_start, key: bytecode}]
    env: [{name: WARM_START_BYTECODE}]
"""

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


def pack(playbook: Playbook, run: int, with_bytecode: bool) -> None:
    """Pack the modules of a playbook, the first task's first, as long as its run lives.

    What fails here fails where its task runs, or does not matter: an action may have no module.

    :param run: the process id of that run.
    :param with_bytecode: whether to add that of the library.
    """
    warnings.simplefilter("ignore")  # of sources: nobody asked this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears it, and ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(AttributeError):  # each source is in most modules: read it once
        module_common._compile_module_ast = functools.cache(module_common._compile_module_ast)
    compression = constants.DEFAULT_MODULE_COMPRESSION
    templar = Templar(loader=DataLoader())
    cache = Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache")
    compiled, done, named = {}, set(), set()
    for name in modules(playbook):
        if os.getppid() != run:
            return
        if name in named:
            continue
        named.add(name)
        with contextlib.suppress(Exception):
            module_common.modify_module(
                module_name=name,
                module_path=module_loader.find_plugin(name),
                module_args={},
                templar=templar,
                module_compression=compression,
            )
            # Not its locks, nor what a debugger has; and each only once.
            for path in {*cache.glob("*-none")} - done if with_bytecode else ():
                done.add(path)
                add_bytecode(path, compiled)


def add_bytecode(path: Path, compiled: dict[tuple[str, bytes], bytes]) -> None:
    """Add to a packed module, beside each source of the library, its bytecode.

    It is marked as not to be checked against the source
    (https://peps.python.org/pep-0552/), which lies beside it in the same archive. The module itself
    stays source: by its path Ansible knows whose a deprecation is.

    :param path: the module in Ansible's cache.
    :param compiled: the bytecode of what was seen before, which grows: most is in each module.
    """
    module = module_common._CachedModule.load(str(path))
    packed = io.BytesIO(base64.b64decode(module.zip_data))
    with zipfile.ZipFile(packed, "a") as archive:
        for item in [*archive.infolist()]:
            if not item.filename.startswith("ansible/module_utils/"):
                continue
            key = item.filename, archive.read(item)
            if key not in compiled:
                compiled[key] = bytecode(*key)
            name = f"{item.filename}c"
            archive.writestr(name, compiled[key], compress_type=item.compress_type)
    dataclasses.replace(module, zip_data=base64.b64encode(packed.getvalue())).dump(str(path))


def bytecode(name: str, source: bytes) -> bytes:
    """Return what Python would write into a .pyc of that source."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    unchecked = (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(code)


def modules(playbook: Playbook) -> Iterator[str]:
    """Name what a playbook calls; what comes first is named before the rest is read."""
    facts = constants.config.get_config_value("FACTS_MODULES")
    for play in playbook.get_plays():
        if play.gather_facts is not False:
            yield from facts
        for action in actions(play, play.compile()):
            yield from facts if action == "ansible.builtin.gather_facts" else [action]


class CallbackModule(CallbackBase):
    """Does nothing but that."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "warm_start"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        """Begin to pack; load the plugins: all filters and tests, and the others by name."""
        fork = multiprocessing.get_context("fork")
        arguments = (playbook, os.getpid(), self.get_option("bytecode"))
        self.packer = fork.Process(target=pack, args=arguments, daemon=True)
        self.packer.start()
        for loader in (filter_loader, test_loader):
            list(loader.all())
        for loader, names in USED.items():
            for name in names:
                loader.get(name, class_only=True)

    def v2_playbook_on_play_start(self, play):
        """Take all that lives by now out of the collector's sight, and let it look less often.

        The latter took a second run from 10.3 to 10.0 s, medians of five interleaved pairs.
        """
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)

    def v2_playbook_on_stats(self, stats):
        """Leave nobody behind."""
        self.packer.terminate()
        self.packer.join()
