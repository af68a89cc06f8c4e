"""The folder of a release: source, virtualenv, environment and settings, sealed."""

from __future__ import annotations

import os
import re
import secrets
import shutil

from ansible.module_utils.releases import Application, now, put_on_disk, run, write_text
from ansible.module_utils.virtualenvs import install_uv, make_virtualenv


def write_environment(app: Application, release: str, revision: str) -> None:
    """Give the release its own copy of the environment, with the secret key and its own name."""
    secret = app.configuration / "secret_key"
    if not secret.exists():
        write_text(secret, secrets.token_urlsafe(48), mode=0o600)
    given = (app.configuration / "environment").read_text()
    lines = [given, f'RELEASE_ID="{release}"\nRELEASE_REVISION="{revision}"\n']
    if not re.search(r"^SECRET_KEY=", given, re.MULTILINE):
        lines.append(f'SECRET_KEY="{secret.read_text()}"\n')
    path = app.folder(release) / "environment"
    write_text(path, "".join(lines), mode=0o640)
    os.chown(path, 0, app.owner()[1])


def build(app: Application, plan: dict) -> None:
    """Unpack the source, make the virtualenv, and copy the configuration.

    :param plan: what stands in the lock: `release`, `settings`, `fingerprint`, `holder`.
    :raises ReleaseError: where a package cannot be had.
    """
    release, settings = plan["release"], plan["settings"]
    install_uv(settings)
    folder = app.folder(release)
    source = folder / "source"
    source.mkdir(parents=True)
    unpack = ["tar", "--extract", "--gzip", "--no-same-owner"]
    run([*unpack, f"--file={app.archive(release)}", f"--directory={source}"])
    app.archive(release).unlink()
    run(["chmod", "--recursive", "u=rwX,go=rX", str(source)])
    made_from = make_virtualenv(app, release, settings, plan["fingerprint"]["python"])
    # -S: a .pth file of the virtualenv would run its code, here as root.
    compileall = [settings["python"], "-I", "-S", "-m", "compileall", "-q", str(source)]
    run(compileall, shown="compileall")
    write_environment(app, release, settings["source"]["revision"])
    shutil.copyfile(app.configuration / "gunicorn.conf.py", folder / "gunicorn.conf.py")
    (folder / "gunicorn.sock").symlink_to(app.new_socket(release))
    put_on_disk(folder)  # before it is called complete
    app.record(
        release,
        release=release,
        revision=settings["source"]["revision"],
        version=settings["source"]["version"],
        built=now(),
        by=plan["holder"],
        fingerprint=plan["fingerprint"],
        commands=settings["commands"],
        virtualenv=made_from,
    )
