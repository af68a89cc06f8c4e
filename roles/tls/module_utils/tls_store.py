"""The folder from which nginx reads certificates, and what stands in it.

PATH/NAME is a link to a folder with fullchain.pem and privkey.pem, which is never changed: one
rename switches both files, and a run that is killed leaves the old pair whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LIVE = Path("/etc/letsencrypt/live")
STAMP = Path("/var/lib/slipway/certificates")  # stands until nginx serves what the links say
APPLY = "/usr/local/lib/slipway/apply-certificates"

# What both modules are told of each site.
SITES = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "name": {"type": "str", "required": True},
        "names": {"type": "list", "elements": "str", "required": True},
        "mode": {"type": "str", "choices": ["acme", "selfsigned", "provided"]},
    },
}

Run = Callable[..., "tuple[int, str, str]"]


class Certificate(NamedTuple):
    """What matters of a certificate; the times are seconds since 1970."""

    names: frozenset[str]
    begins: float
    ends: float

    @property
    def last_day(self) -> str:
        """Return the day on which it ends."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.ends))

    def covers(self, name: str) -> bool:
        """Tell whether it is good for a name, by itself or by a wildcard."""
        return name in self.names or f"*.{name.partition('.')[2]}" in self.names


def read_pair(folder: Path, run: Run) -> Certificate | None:
    """Return the certificate of a folder, or None where it and its key are no pair."""
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    show = ["openssl", "x509", "-noout", "-pubkey", "-startdate", "-enddate"]
    code, seen, _ = run([*show, "-ext", "subjectAltName", "-in", str(chain)])
    if code != 0:
        return None
    code, public_key, _ = run(["openssl", "pkey", "-pubout", "-passin", "pass:", "-in", str(key)])
    if code != 0 or public_key.strip() not in seen:
        return None
    begins, ends = (
        float(ssl.cert_time_to_seconds(re.search(rf"^{date}=(.+)$", seen, re.MULTILINE)[1]))
        for date in ("notBefore", "notAfter")
    )
    return Certificate(frozenset(re.findall(r"DNS:([^,\s]+)", seen)), begins, ends)


class Store:
    """The links and pairs of all sites."""

    def __init__(self, path: str, run: Run):
        self.path, self.run = Path(path), run

    def target(self, name: str) -> Path | None:
        """Return the folder that a site's link leads to."""
        link = self.path / name
        return Path(os.readlink(link)) if link.is_symlink() else None

    def pair_path(self, name: str, kind: str, chain: str, key: str) -> Path:
        """Return where a pair of this content stands."""
        digest = hashlib.sha256(f"{chain}\0{key}".encode()).hexdigest()[:12]
        return self.path / f"{name}.{kind}-{digest}"

    def write_pair(self, target: Path, chain: str, key: str) -> None:
        """Write a pair, whole or not at all."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.path, prefix=f".{target.name}."))
        for name, text, mode in (("fullchain.pem", chain, 0o644), ("privkey.pem", key, 0o600)):
            (draft / name).touch(mode=0o600)
            with (draft / name).open("w") as file:
                file.write(text.strip() + "\n")
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)  # whatever it is, it is not whole
        os.rename(draft, target)

    def switch(self, name: str, target: Path) -> None:
        """Let a site read another pair, and remove those that it no longer reads."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        link, draft = self.path / name, self.path / f".{name}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        os.replace(draft, link)
        for pattern in (f"{name}.provided-*", f"{name}.selfsigned-*", f".{name}.*"):
            for old in self.path.glob(pattern):
                if old != target:
                    shutil.rmtree(old, ignore_errors=True)

    def is_pending(self) -> bool:
        """Tell whether nginx has yet to be told of a change."""
        return STAMP.exists()

    def begin(self) -> None:
        """Remember that nginx has to be told, also by the next run if this one is killed."""
        STAMP.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        STAMP.touch()

    def apply(self) -> str:
        """Tell nginx; return what went wrong, or ""."""
        code, output, error = self.run([APPLY])
        if code == 0:
            STAMP.unlink(missing_ok=True)
            return ""
        return f"{APPLY} ended with {code}:\n{output}{error}"
