"""Import the modules and plugins of the roles, which are no packages."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROLES = Path(__file__).parents[1] / "roles"


def load(path: str, name: str = "") -> ModuleType:
    """Import a file as Ansible would.

    :param path: the file, from the folder of the roles on.
    :param name: under which others import it (`ansible.module_utils.tls_store`); else nobody does.
    """
    spec = importlib.util.spec_from_file_location(name or Path(path).stem, ROLES / path)
    module = importlib.util.module_from_spec(spec)
    if name:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
