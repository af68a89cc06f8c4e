"""Chromium without a screen, driven by chromedriver in the words of W3C's WebDriver."""

import base64
import json
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path

ARGUMENTS = [
    "--headless",
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class Browser:
    """A browser with one page; use it in a `with` block."""

    def __enter__(self):
        """Start it."""
        self.profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = next((line for line in self.driver.stdout if "successfully" in line), "")
        port = re.search(r"on port (\d+)", said)[1]
        self.url = f"http://127.0.0.1:{port}/session"
        options = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": [*ARGUMENTS, f"--user-data-dir={self.profile.name}"]},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        made = self.send("POST", "", {"capabilities": {"alwaysMatch": options}})
        self.url += f"/{made['sessionId']}"
        self.open("about:blank")  # its own first page asks for much
        return self

    def __exit__(self, *error):
        """End it."""
        self.send("DELETE", "")
        self.driver.terminate()
        self.driver.communicate()
        self.profile.cleanup()

    def send(self, method: str, path: str, body: dict | None = None):
        """Send a command; return its value."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        # The address is the one that chromedriver was started on: http.
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 (http)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)["value"]

    def control(self, command: str, **parameters: object) -> dict:
        """Send a command of Chrome's DevTools."""
        body = {"cmd": command, "params": parameters}
        return self.send("POST", "/goog/cdp/execute", body)

    def resize(self, width: int, height: int, scheme: str) -> None:
        """Be a screen of this size; below 500 pixels, a telephone. The scheme is light or dark."""
        size = {"width": width, "height": height}
        self.control(
            "Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=2, mobile=width < 500
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.control("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        self.send("POST", "/url", {"url": url})

    def run(self, script: str):
        """Run the body of a function in the page; return what it returns."""
        return self.send("POST", "/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """Return what the browser said in its console since the last time."""
        return [one["message"] for one in self.send("POST", "/se/log", {"type": "browser"})]

    def requested(self) -> list[str]:
        """Return the addresses that pages asked for since the last time."""
        entries = self.send("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [event["params"]["request"]["url"] for event in events
                if event["method"] == "Network.requestWillBeSent"]  # fmt: skip

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        size = self.control("Page.getLayoutMetrics")["cssContentSize"]
        clip = {**size, "scale": 1}
        taken = self.control("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))
