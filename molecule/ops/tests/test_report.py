"""./ops report: one page of HTML, opened in a real browser, with the numbers of the real host."""

import html
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import Browser

testinfra_hosts = ["ansible://database"]
PROJECT = Path(__file__).parents[3]
LOG = "/var/log/nginx/access.log"
SCREENS = {"phone": (390, 844), "desktop": (1280, 900)}
SCHEMES = ("light", "dark")
# Requests of the shop of the last 24 hours, however nginx's logs were rotated since.
COUNT = (
    f"zcat --force {LOG}* | awk -v from=$(($(date +%s) - 86400)) "
    '\'$NF >= from && $(NF - 1) == "shop" {n++; bad += /" 5[0-9][0-9] [0-9]+ "/} '
    "END {print n + 0, bad + 0}'"
)
# What is broader than the screen, or too small or too faint to be read.
UNREADABLE = r"""
const rgb = (text) => text.match(/[\d.]+/g).map(Number);
const light = (color) => {
  const part = color.slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const color = rgb(getComputedStyle(one).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return rgb(getComputedStyle(document.documentElement).backgroundColor);
};
for (const one of document.querySelectorAll("details")) one.open = true;
const found = [], width = document.documentElement.clientWidth;
for (const element of document.querySelectorAll("body *")) {
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  if (box.right > width + 0.5 || box.left < -0.5) found.push(["too broad", element.outerHTML]);
  const said = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
  if (!said || element.closest("svg") || !box.height) continue;
  if (parseFloat(style.fontSize) < 12) found.push(["too small", element.outerHTML]);
  const two = [light(rgb(style.color)), light(behind(element))].sort((a, b) => b - a);
  const contrast = (two[0] + 0.05) / (two[1] + 0.05);
  if (contrast < 4.5) found.push([`contrast ${contrast}`, element.outerHTML]);
}
if (document.documentElement.scrollWidth > width) found.push(["scrolls", width]);
return found;
"""
# The plots of each article: title, what is said of them, and how high each line was drawn.
PLOTS = """
return [...document.querySelectorAll("article")].map((article) => [
  article.querySelector("h3").textContent,
  [...article.querySelectorAll("svg")].map((plot) => ({
    title: plot.querySelector("title").textContent,
    said: plot.querySelector("desc").textContent,
    heights: [...plot.querySelectorAll("path:not(.grid)")].map((path) => path.getBBox().height),
    seen: plot.getBoundingClientRect().width > 200 && plot.getBoundingClientRect().height > 80,
    spans: [...plot.querySelectorAll(".span title")].map((title) => title.textContent),
  })),
]);
"""


@pytest.fixture(scope="module")
def browser():
    """Return a browser."""
    with Browser() as started:
        yield started


@pytest.fixture
def report(run_ops, tmp_path):
    """Return a function that writes a page, and returns its path and what it was drawn from."""

    def run(*more: str, code: int = 0) -> tuple[Path, list[dict]]:
        path = tmp_path / "page.html"
        done = run_ops("report", "--json", "--output", str(path), *more)
        assert done.returncode == code, done.stdout + done.stderr
        document = json.loads(next(one for one in done.stdout.splitlines() if one[0] == "{"))
        assert document["page"] == str(path)
        return path, document["hosts"]

    return run


@pytest.fixture
def traffic(address):
    """Return a function that asks the shop, and tells how often."""

    def ask(times: int, path: str = "/users") -> int:
        for _ in range(times):
            try:
                urllib.request.urlopen(f"http://{address}{path}", timeout=20).close()
            except urllib.error.HTTPError as error:
                error.close()
        return times

    return ask


def shop_of(hosts: list[dict]) -> dict:
    """Return the day of the shop."""
    return hosts[0]["history"]["apps"]["shop"]


def plots_of(browser: Browser, path: Path) -> dict[str, list[dict]]:
    """Return the plots of each article of a page, by its heading."""
    browser.open(path.as_uri())
    return dict(browser.run(PLOTS))


def test_the_report_says_where_it_is_and_has_what_the_status_has(run_ops, tmp_path, traffic):
    traffic(20)
    path = tmp_path / "page.html"
    before = run_ops("status").stdout.splitlines()
    done = run_ops("report", "--output", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"The report is written: {path}\n" in done.stdout
    said = html.unescape(re.sub(r"<[^>]+>", "", path.read_text()))
    lines = [*before, *run_ops("status").stdout.splitlines()]  # meanwhile a disk may fill by 1 %

    def told(name: str) -> list[str]:
        return [line[15:] for line in lines if line.startswith(f"  {name} ")]

    for name in ("release", "disk", "certificate", "updates", "backup", "alerts"):
        texts = {re.split(r", \d+ (?:s|min|MiB)\b|, up ", one)[0] for one in told(name)}
        assert any(text in said for text in texts), name
    workers = {re.match(r"(\d+) of (\d+) alive", one).groups() for one in told("workers")}
    assert any(f"Workers{alive}/{promised}alive" in said for alive, promised in workers), workers
    # How many connections there are changes by the second; how many there may be, and to which
    # databases, does not.
    (allowed,) = {re.search(r"of \d+ connections", one)[0] for one in told("database")}
    assert allowed in said
    names = {name for one in told("database") for name in re.findall(r"; (\w+): ", one)}
    assert names == {"blog", "shop"}
    assert all(f"; {name}: " in said for name in names)


def test_a_day_is_counted_as_the_logs_have_it_also_when_they_are_rotated(host, report, traffic):
    traffic(100)
    before, bad = map(int, host.check_output(COUNT).split())
    _, hosts = report()
    total = shop_of(hosts)["total"]
    assert (total["count"], total["answers_5xx"]) == (before, bad)
    for _ in range(2):  # the last one but one gets compressed
        host.check_output("logrotate --force /etc/logrotate.d/nginx")
        traffic(10)
    assert host.check_output(f"ls {LOG}*").split()[-1].endswith(".gz")
    after, _ = map(int, host.check_output(COUNT).split())
    assert shop_of(report()[1])["total"]["count"] == after == before + 20


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_can_be_read_on_a_phone_and_on_a_desktop(browser, report, traffic, screen, scheme):
    traffic(50)
    path, _ = report()
    browser.resize(*SCREENS[screen], scheme)
    browser.open(path.as_uri())
    width = browser.run("return document.documentElement.clientWidth")
    assert 0 <= SCREENS[screen][0] - width < 20  # a scroll bar
    assert browser.run(UNREADABLE) == []
    pictures = PROJECT / ".cache/screenshots"
    pictures.mkdir(parents=True, exist_ok=True)
    browser.picture(pictures / f"report-{screen}-{scheme}.png")


def test_the_page_asks_nobody_for_anything(browser, report):
    path, _ = report()
    browser.requested(), browser.complaints()
    browser.open(path.as_uri())
    browser.run("window.scrollTo(0, document.body.scrollHeight)")
    assert set(browser.requested()) <= {path.as_uri(), "data:,"}
    assert browser.complaints() == []
    assert browser.run("return document.scripts.length") == 0


def test_the_plots_have_the_numbers_of_the_host(host, browser, report, traffic):
    traffic(200)
    traffic(30, "/users/999999")
    path, hosts = report()
    day, history = shop_of(hosts), hosts[0]["history"]
    requests, durations, errors = plots_of(browser, path)["shop"]
    assert requests["title"] == "Requests per second of shop in the last 24 hours"
    assert all(plot["seen"] for plot in (requests, durations, errors))
    counts = day["bins"]["count"]
    last = max(place for place, count in enumerate(counts) if count)
    begin = history["start"] + last * history["bin_seconds"]
    end = min(begin + history["bin_seconds"], history["now"])
    rate = counts[last] / (end - max(begin, history["known_from"]))
    shown = re.search(r": ([\d.]+) per second", requests["spans"][last - len(counts)])
    assert float(shown[1]) == pytest.approx(rate, rel=0.1)
    assert requests["heights"][0] > 1
    assert len(durations["heights"]) == 2
    p99 = day["bins"]["p99_ms"][last]
    said = f"{p99} ms" if p99 < 1000 else f"{p99 / 1000:.1f}".removesuffix(".0") + " s"
    assert f"p99 {said}" in durations["spans"][-1]
    text = browser.run("return document.body.innerText")
    assert f"{day['total']['count']:,} requests" in " ".join(text.split())


def test_an_application_without_requests_says_so(browser, report, tmp_path):
    path, _ = report("--", "-e", "status_access_log=/nowhere/access.log")
    assert plots_of(browser, path)["shop"] == []
    assert "No requests since" in browser.run("return document.body.innerText")


def test_an_application_that_is_down_is_on_top_and_told_by_2(host, browser, report):
    host.check_output("systemctl stop blog.target")
    try:
        path, _ = report(code=2)
    finally:
        host.check_output("systemctl start blog.target")
        host.check_output("sleep 5")
    browser.open(path.as_uri())
    assert browser.run("return document.querySelector('h1').textContent") == (
        "Not everything serves as promised"
    )
    assert "blog is down." in browser.run("return document.querySelector('.alarm').innerText")


def test_a_gigabyte_of_log_costs_less_than_a_minute(host, report):
    line = (
        '203.0.113.7 - - [22/Nov/2026:23:30:00 +0000] "GET /users?page=12 HTTP/1.1" 200 1234 '
        '"https://shop.example.org/users" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36" '
        f"shop.example.org {'0123456789abcdef' * 2} 0.012 0.011 shop {time.time() - 7200:.3f}"
    )
    number = 10**9 // (len(line) + 1)
    host.check_output(f"yes '{line}' | head --lines={number} > /var/tmp/large.log")
    began = time.monotonic()
    report("--", "-e", "status_access_log=/nowhere/access.log")
    usual = time.monotonic() - began
    try:
        _, hosts = report("--", "-e", "status_access_log=/var/tmp/large.log")
    finally:
        host.check_output("rm /var/tmp/large.log")
    took = time.monotonic() - began - 2 * usual
    assert took < 60
    history = hosts[0]["history"]
    read = history["apps"]["shop"]["total"]["count"]
    assert read == number or history["known_from"] > history["start"]
    print(f"a gigabyte of log: {took:.1f} s, {read} of {number} lines")


# -- the machine, from a Prometheus with a day of figures


RECORDED = {
    "machine:cpu_used:ratio": 0.25,
    "machine:memory_available:ratio": 0.4,
    "machine:disk_used:ratio": 0.615,
    "database:connections:used": 19,
    "database:connections:allowed": 95,
}
# A sample each minute of 25 hours, as OpenMetrics; in the last hour the processors have twice as
# much to do.
FIGURES = """
import json, sys, time
now = int(time.time())
for name, value in json.loads(sys.argv[1]).items():
    print("# TYPE", name, "gauge")
    for at in range(now - 25 * 3600, now + 300, 60):
        print(name, value * (2 if "cpu" in name and at > now - 3600 else 1), at)
print("# EOF")
"""
PROMETHEUS = "127.0.0.1:9099"
SERVE = f"""
set -e
cd /run/day
echo 'global: {{scrape_interval: 1h}}' > prometheus.yml
promtool tsdb create-blocks-from openmetrics day.txt data > /dev/null
systemd-run --quiet --unit=day-prometheus prometheus --config.file=/run/day/prometheus.yml \
    --storage.tsdb.path=/run/day/data --storage.tsdb.retention.time=10d \
    --web.listen-address={PROMETHEUS}
for _ in $(seq 100); do
    promtool query instant http://{PROMETHEUS} 1 > /dev/null 2>&1 && exit
    sleep 0.2
done
exit 1
"""


@pytest.fixture
def prometheus(host):
    """Start a Prometheus of its own on the host, which has a day of known figures."""
    if not host.package("prometheus").is_installed:
        keep_off = "ln -s /dev/null /etc/systemd/system/prometheus.service"
        install = "apt-get install --yes --no-install-recommends prometheus"
        host.check_output(f"{keep_off}; apt-get update; DEBIAN_FRONTEND=noninteractive {install}")
    host.check_output("mkdir /run/day")
    host.check_output("python3 -c %s %s > /run/day/day.txt", FIGURES, json.dumps(RECORDED))
    try:
        host.check_output("sh -c %s", SERVE)
        yield f"http://{PROMETHEUS}"
    finally:
        host.run("systemctl stop day-prometheus; rm -r /run/day")


def test_what_prometheus_recorded_is_drawn(browser, report, prometheus):
    path, hosts = report("--", "-e", f"status_prometheus_url={prometheus}")
    seen = hosts[0]["history"]["machine"]
    assert seen["processor"] == [25] * 93 + [50] * 4
    assert set(seen["memory"]) == {60}
    plots = {
        plot["title"].partition(" of ")[0]: plot for plot in plots_of(browser, path)["harbour"]
    }
    said = {title: plot["said"] for title, plot in plots.items()}
    assert said["Processors at work"] == "last 50 %, at most 50 %."
    assert said["Disk used, the fullest"] == "last 61.5 %, at most 61.5 %."
    assert said["Connections used"] == "last 20 %, at most 20 %."
    assert plots["Processors at work"]["heights"] == [pytest.approx(25, abs=0.2)]
    assert all(plot["seen"] and len(plot["spans"]) == 97 for plot in plots.values())
