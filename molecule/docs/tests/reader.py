"""A reader: somebody with a home, a clone and a server, who types what stands on the pages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from house.pages import Block

PROJECT = Path(__file__).parents[3]
ADDRESS = "127.0.25.1"
SECONDS = 900
# What a page says, and what this reader types. All else is typed as it stands there.
SUBSTITUTED = [
    # The server and the names of things on it.
    (r"203\.0\.113\.10\b(?=.*ansible_user: root})", f"{ADDRESS}, ansible_port: 2222"),
    (r"\bssh root@HOST\b", f"ssh -p 2222 root@{ADDRESS}"),
    (r"\bwebapp(?=[.@*])|(?<=/srv/)webapp", "shop"),
    (r"(?<=flask_app_rollback_to=)\S+", "{older}"),
    (r"(?<=--release )\S+", "{current}"),
    (r"(?<=/srv/shop/dumps/)\S+", "{dump}"),
    (r"2026-11-22 14:03:20\+00", "{moment}"),
    (r"before-migration-20261122T140320Z", "{point}"),
    # It answers a question before it is asked.
    (r"playbooks/restore-database\.yml", r"\g<0> -e backup_restore_confirmed=true"),
    # What never ends is ended after some seconds; what serves, once it has answered.
    (r"(?m)^[^#\n]*( --follow\b| follow\b)[^#\n]*", r"until_interrupted \g<0>"),
    (r"(?m)^(python app\.py|gunicorn .*?app:app)", r"until_answered \g<0>"),
    # Nobody has bought shop.example.org, which the doctor finds bad.
    (r"(?m)^./ops -i inventory/mine doctor\b", r"\g<0> || test $? -eq 2"),
    # A scheduled command rests, which systemctl tells by 3.
    (r"(?m)^systemctl status '[^']+'", r"\g<0> || test $? -eq 3"),
    # Names of test hosts are one per machine, and its own sshd has port 22.
    (r"(?m)^(molecule/hosts/host .*?)\bweb\b", r"\1docs-web"),
    (r"(?<=start )web\b", "docs-web"),
    (r"--address 127\.0\.12\.1\b", "--address 127.0.25.2 --ssh-port 2222"),
]
# Ansible ends with 0 where a limit leaves nobody to work on.
NOBODY = re.compile("Could not match supplied host pattern|provided hosts list is empty")
PRELUDE = """
set -euo pipefail
until_interrupted() {
    local code=0
    timeout --signal=INT --kill-after=5 20 "$@" || code=$?
    test "$code" -eq 124
}
until_answered() {
    setsid "$@" & local asked=0
    until curl --fail --silent --show-error "http://127.0.0.1:$PORT/health/live"; do
        asked=$((asked + 1)); test "$asked" -lt 60; sleep 0.5
    done
    kill -TERM -- "-$!"; wait "$!" || true
}
"""
SSH = """\
#!/bin/sh
# ssh reads the home of the user database; this one reads the home of HOME.
exec /usr/bin/ssh -F "$HOME/.ssh/config" "$@"
"""
SSH_CONFIG = """\
Host *
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {home}/.ssh/known_hosts
    GlobalKnownHostsFile /dev/null
"""
MIGRATION = """\
revision = "0002"
down_revision = "0001"


def upgrade():
    from alembic import op
    import sqlalchemy

    op.create_table("notes", sqlalchemy.Column("id", sqlalchemy.Integer))


def downgrade():
    from alembic import op

    op.drop_table("notes")
"""
BLOG = """\
import flask

app = flask.Flask(__name__)


@app.get("/health/ready")
def ready():
    return {"status": "ok"}
"""


class Reader:
    """Who reads; each page has what it takes for granted done before (`before`)."""

    def __init__(self, folder: Path):
        self.home, self.clone = folder / "home", folder / "slipway"
        self.number = 0
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.key = Path(cache, "slipway/id_ed25519")
        ours = {name: os.environ[name] for name in os.environ
                if not re.match("ANSIBLE_|MOLECULE_|PYTEST_|VIRTUAL_ENV|PYTHON", name)}  # fmt: skip
        path = ours["PATH"].replace(f"{PROJECT}/.venv/bin:", "")
        self.environment = ours | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": cache,
            "PATH": f"{self.home}/bin:{self.clone}/.venv/bin:{path}",
            "ANSIBLE_NOCOLOR": "1",
            "PORT": "18025",  # gunicorn and the sample app look for it
        }
        self.set_up()

    def set_up(self) -> None:
        """Make the home, with a key that the server knows; the clone; and two applications."""
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        (self.home / ".ssh/config").write_text(SSH_CONFIG.format(home=self.home, key=self.key))
        (self.home / "bin").mkdir()
        (self.home / "bin/ssh").write_text(SSH)
        (self.home / "bin/ssh").chmod(0o755)
        self.clone.mkdir()
        listed = "git ls-files -z --cached --others --exclude-standard"
        copy = f"{listed} | tar --null --files-from=- --create | tar --extract --directory"
        subprocess.run(
            ["bash", "-ec", f"set -o pipefail; {copy} {self.clone}"], cwd=PROJECT, check=True
        )
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "instance", ".venv")
        shop, blog = self.home / "code/shop", self.home / "code/blog"
        shutil.copytree(PROJECT / "app", shop, ignore=ignored)
        (shop / "shop/static").mkdir(parents=True)
        (shop / "shop/static/logo.txt").write_text("shop\n")
        blog.mkdir()
        (blog / "app.py").write_text(BLOG)
        (blog / "requirements.txt").write_text("flask\n")
        (self.clone / "report.sql").write_text("SELECT count(*) FROM users;\n")
        # "Log in once with ssh before, so that its host key is known."
        first = ["ssh", "-p", "2222", "-o", "StrictHostKeyChecking=accept-new", f"root@{ADDRESS}"]
        self.shell(" ".join([*first, "true"]))

    def shell(self, text: str, folder: str = ".", code: int = 0) -> str:
        """Run commands on this computer, in a folder of the clone; return what they printed."""
        return self.judge(["bash", "-c", PRELUDE + text], text, code, cwd=self.clone / folder)

    def server(self, text: str, code: int = 0) -> str:
        """Run commands on the server, as root."""
        command = ["ssh", "-p", "2222", f"root@{ADDRESS}", "bash -s"]
        return self.judge(command, text, code, input=PRELUDE + text)

    def judge(self, command: list[str], text: str, code: int, **options: object) -> str:
        """Run a command that must end with an exit code."""
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=SECONDS, **options,
        )  # fmt: skip
        if done.returncode != code or NOBODY.search(done.stdout):
            pytest.fail(f"{text}\nended with {done.returncode}:\n{done.stdout}", pytrace=False)
        return done.stdout

    def read(self, block: Block) -> str:
        """Do what a block says, where and how its mark says; return what was printed."""
        name = str(block.path.relative_to(PROJECT))
        self.before(name, block.text)
        text = self.substituted(block.text)
        how = block.said.split(", ")[1:]
        code = next((int(part.split()[1]) for part in how if part.startswith("exit ")), 0)
        copied = re.match(r"(?s).*?cp -r inventory/example inventory/mine[^\n]*", text)
        if copied:
            said = self.shell(copied[0])
            self.edit_example()
            return said + self.shell(text.removeprefix(copied[0]))
        in_app = "in app" in how
        if in_app and (self.clone / "app/.venv").exists():
            text = f". .venv/bin/activate\n{text}"
        if "on the server" in how:
            said = self.server(text, code)
        else:
            said = self.shell(text, "app" if in_app else ".", code)
        self.after(text)
        return said

    def substituted(self, text: str) -> str:
        """Return what this reader types for what a page says."""
        for pattern, typed in SUBSTITUTED:
            text = re.sub(pattern, typed, text)
        for find_out in (self.current, self.older, self.dump, self.moment, self.point):
            place = f"{{{find_out.__name__}}}"
            if place in text:
                text = text.replace(place, find_out())
        return text

    # -- what a page takes for granted

    def before(self, name: str, text: str) -> None:
        """Bring about what a reader of this block would have."""
        mine = self.clone / "inventory/mine"
        if "cp -r inventory/example" in text:
            shutil.rmtree(mine, ignore_errors=True)
        if name == "docs/your-app.md" and "site.yml" in text:
            self.take_several()
        if "deploy" in text:
            self.change()
        if "rollback" in text and "deploy" not in text:
            for _ in range(2):
                self.deploy()
        if "flask db downgrade" in text or "pg_restore" in text:
            self.deploy(migration=True)
        if name == "docs/backup.md" and "restore" in text:
            self.back_up()

    def after(self, text: str) -> None:
        """Do what the sentence below a block says."""
        if "flask db downgrade" in text or "pg_restore" in text:
            self.shell("./ops -i inventory/mine -l shop rollback")
        if "pg_restore" in text:
            self.psql("DROP TABLE notes")
        if "stop shop.target shop-clean.timer" in text:
            self.server("systemctl start shop-clean.timer")

    def edit_example(self) -> None:
        """Change the lines of the example that README.md names: address, domain, app."""
        path = self.clone / "inventory/mine/hosts.yml"
        text = path.read_text()
        for line, mine in [
            (r"ansible_host: \S+", f"ansible_host: {ADDRESS}\n      ansible_port: 2222"),
            (r"site_domains: \S+", "site_domains: [shop.example.org]"),
            (r"site_app_name: \S+", "site_app_name: shop"),
            (r'site_app_source: "[^"]+"', "site_app_source: ~/code/shop"),
            (r"site_app_static: \S+", "site_app_static: shop/static"),
        ]:
            text, count = re.subn(line, mine, text)
            if count != 1:
                pytest.fail(f"The example has no {line} to change.")
        path.write_text(text)
        self.trust()

    def take_several(self) -> None:
        """Take the inventory with two applications from its page."""
        page = (PROJECT / "docs/your-app.md").read_text()
        (entries,) = re.findall(r"# inventory/mine/hosts.yml\n(all:.*?)```", page, re.DOTALL)
        # As deploying.md has it, without a package and a Redis of their own.
        entries = re.sub(
            r"( +)site_app_name: shop\n",
            r"\g<0>\1flask_app_commands:\n"
            r"\1  worker: {command: sleep infinity}\n"
            r'\1  clean: {command: "flask --app app:app routes", schedule: daily}\n',
            entries,
        )
        path = self.clone / "inventory/mine/hosts.yml"
        path.write_text(self.substituted(entries))
        self.trust()

    def trust(self) -> None:
        """Let the server trust what this computer trusts."""
        shutil.copy(PROJECT / "molecule/trust.yml", self.clone / "inventory/mine/trust.yml")

    def change(self) -> None:
        """Make the application another one, which does the same."""
        self.number += 1
        (self.home / "code/shop/number.txt").write_text(f"{self.number}\n")

    def deploy(self, migration: bool = False) -> None:
        """Deploy something new, perhaps with a migration."""
        file = self.home / "code/shop/migrations/versions/0002_notes.py"
        file.unlink(missing_ok=True)
        if migration:
            file.write_text(MIGRATION)
        self.change()
        self.shell("./ops -i inventory/mine -l shop deploy")

    def back_up(self) -> None:
        """Back up, and remember a moment and a restore point after it."""
        self.shell("./ops backup")
        self.server("systemctl start slipway-backup-check || true")

    def psql(self, query: str) -> str:
        """Ask the database of the shop."""
        return self.server(f'cd / && runuser -u shop -- psql --command "{query}"')

    def current(self) -> str:
        """Return the release that serves."""
        return self.server("basename $(readlink /srv/shop/current)").strip()

    def older(self) -> str:
        """Return the oldest release that is kept and does not serve."""
        listed = self.server("cd /srv/shop/releases && ls -d */release.json | cut -d/ -f1").split()
        return next(one for one in sorted(listed) if one != self.current())

    def dump(self) -> str:
        """Return the newest dump."""
        return self.server("ls /srv/shop/dumps | tail -n 1").strip()

    def moment(self) -> str:
        """Return a time of now, between two writes."""
        self.psql("INSERT INTO users (name) VALUES ('before')")
        self.server("sleep 1")
        moment = self.server("date --utc +'%F %T+00'").strip()
        self.server("sleep 1")
        self.psql("INSERT INTO users (name) VALUES ('after')")
        return moment

    def point(self) -> str:
        """Return the name of a restore point of now."""
        return self.server("slipway-backup point before-import").split()[-1]  # with its time
