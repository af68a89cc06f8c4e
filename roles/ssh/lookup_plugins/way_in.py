"""Find out how a run gets in: by the lasting way, or as the inventory says (docs/access.md).

The inventory names the first way, `ansible_user` at `ansible_port`. Where its inputs close that
one (`ssh_port` is not 22, or `ssh_permit_root` is false), the role ssh makes a lasting way:
`ssh_admin_user` at `ssh_port`. The first task of a run tries that by logging in, over the
connection that Ansible then goes on using, so it costs nothing; the rest of the run is told.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from ansible.plugins.lookup import LookupBase

DEFAULTS = Path(__file__).parents[1] / "defaults/main.yml"
OURS = {"ansible_ssh_port", "ansible_ssh_user"}
FIRST = {"port": None, "user": None}  # whatever the inventory or the command line says


class LookupModule(LookupBase):
    """Answer `port` or `user`; None is the inventory's."""

    def run(self, terms, variables=None, **kwargs):
        """Return the answer for the host whose variables these are."""
        host = variables["inventory_hostname"]
        connection = self._templar.template(variables.get("ansible_connection", "ssh"))
        if host not in variables["groups"]["all"] or connection not in ("ssh", "smart"):
            return [None]  # localhost, or not by ssh
        # "unsafe" is only to say that it is not copied: nothing here changes it.
        read = self._loader.load_from_file(str(DEFAULTS), trusted_as_template=True, unsafe=True)
        inputs = read | {name: variables[name] for name in read if name in variables}
        port, open_to_root, admin = (
            self._templar.template(inputs[name])
            for name in ("ssh_port", "ssh_permit_root", "ssh_admin_user")
        )
        try:
            port, admin = int(port), str(admin)
        except (TypeError, ValueError):
            return [None]  # so that preflight gets in, and says what is wrong with it
        if port == 22 and open_to_root:
            return [None]
        # This folder is the run's own, and gone with it.
        name = hashlib.sha256(host.encode()).hexdigest()[:16]
        decided = Path(constants.DEFAULT_LOCAL_TMP, f"way-{name}.json")
        if not decided.exists():
            lasting = {"port": port, "user": admin}
            way = lasting if self.leads_in(lasting, variables) else FIRST
            new = decided.with_suffix(".new")
            new.write_text(json.dumps(way))
            new.rename(decided)
        return [json.loads(decided.read_text())[terms[0]]]

    def leads_in(self, way: dict, variables: dict) -> bool:
        """Log in; a host whose key is not known counts as in, so that ssh's own words are shown."""
        options = {
            name: self._templar.template(variables[name])
            for name in constants.config.get_plugin_vars("connection", "ssh")
            if name in variables and name not in OURS
        }
        connection = connection_loader.get("ansible.builtin.ssh", PlayContext())
        direct = {"port": way["port"], "remote_user": way["user"]}
        connection.set_options(var_options=options, direct=direct)
        try:
            return connection.exec_command("true", sudoable=False)[0] == 0
        except AnsibleConnectionFailure as failure:
            return "host key" in failure.message.lower()
        except AnsibleError:
            return False
