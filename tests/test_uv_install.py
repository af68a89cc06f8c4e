"""uv comes to a server once, however many applications are released for the first time there."""

import hashlib
import io
import platform
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plugins import load

load("flask_app/module_utils/releases.py", "ansible.module_utils.releases")
virtualenvs = load("flask_app/module_utils/virtualenvs.py")

APPLICATIONS = 4
WHEEL = f"uv-1-py3-none-manylinux_2_17_{platform.machine()}.whl"


@pytest.fixture
def index():
    """Serve a package index with a wheel of uv; `served` are the paths that were asked for."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("uv-1.data/scripts/uv", Path("/bin/true").read_bytes())
    digest = hashlib.sha256(wheel.getvalue()).hexdigest()
    pages = {
        "/uv/": f'<a href="/{WHEEL}#sha256={digest}">uv</a>'.encode(),
        f"/{WHEEL}": wheel.getvalue(),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.served.append(self.path)
            time.sleep(0.3)  # so that whoever else may come, does
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.served, server.digest = [], digest
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def install_and_run(settings: dict) -> None:
    virtualenvs.install_uv(settings)
    subprocess.run([settings["uv"]], check=True)


def test_applications_that_come_at_once_fetch_one_uv_and_all_can_run_it(index, tmp_path):
    settings = {
        "uv": str(tmp_path / "uv-1/bin/uv"),
        "package_index": f"http://127.0.0.1:{index.server_port}",
        "uv_hashes": [index.digest],
    }
    with ThreadPoolExecutor(APPLICATIONS) as pool:
        for _ in pool.map(install_and_run, [settings] * APPLICATIONS):
            pass
    assert index.served == ["/uv/", f"/{WHEEL}"]


def test_a_wheel_that_is_not_the_pinned_one_is_refused(index, tmp_path):
    settings = {
        "uv": str(tmp_path / "uv-1/bin/uv"),
        "package_index": f"http://127.0.0.1:{index.server_port}",
        "uv_hashes": ["0" * 64],
    }
    with pytest.raises(virtualenvs.ReleaseError, match="has no uv 1 for"):
        virtualenvs.install_uv(settings)
    assert not Path(settings["uv"]).exists()
