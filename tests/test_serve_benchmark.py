"""The benchmark of servers: what it counts, and what it makes of its figures."""

import json
import re
from pathlib import Path

import pytest

import agent
import serve
import serve_page
from serve_figures import Cell, Figures, Sample, Shape

ROOT = Path(__file__).parents[1]
COST = {"app": 1.0, "PostgreSQL": 0.5, "nginx": 0.5}
SELECT = Cell("select", 64)


def sample(requests=3000, seconds=1.5, refused=0, broken=0, p99=12.5, memory=100.0):
    parts = {"app": memory, "PostgreSQL": 60.0, "nginx": 4.0}
    return Sample(requests, seconds, 3.2, p99, refused, broken, COST, parts, 1.5)


def figures(quick=False, rounds=3, **special):
    """Return figures in which every server answers 2000/s, but for `special`: name=requests."""
    made = Figures(serve.OURS, serve.KEY_SHAPES, serve.CORES, rounds, "Python 3.11.2")
    for _ in range(rounds):
        for name, server in serve.servers(quick).items():
            made.cold[name].append(70.0)
            made.ready[name].append(1.2)
            for cell in server.cells:
                made.add(name, *cell, sample(special.get(name, 3000)))
        made.add("static", "static", 64, sample(60000))
        made.pgbench.append(30000.0)
        for name in ("loop binary", "loop source", "loop tcp"):
            made.loops[name].append({"rate": 20000.0, "cpu_us": 30.0, "libpq": 150000})
        for whom in ("worker", "master"):
            made.kills[whom].append({"whole": 0.3, "gap": 0.1, "failed": 1, "requests": 1000})
    return made


def test_a_rate_counts_good_answers_only():
    assert sample(requests=3000, refused=1500).rate == 1000


def test_broken_connections_are_failures_like_bad_answers():
    seen = sample(requests=3000, refused=2, broken=3)
    assert seen.failed == 5
    assert serve_page.failures([seen, sample()]) == "5 of 6003"
    assert serve_page.failures([sample(), sample()]) == "0"


def test_cost_adds_up_all_parts_and_survives_a_load_without_answers():
    assert sample(requests=2000).cost == 1000
    assert sample(requests=0).cost == 2e6


def test_a_percentile_of_the_few_who_were_answered_is_not_shown():
    slow = [sample(requests=60)]  # 40/s: 64 clients wait 1.6 s each, and the load lasts 1.5 s
    assert serve_page.milliseconds(slow, 64, "p99") == "> 750"
    assert serve_page.milliseconds(slow, 8, "p99") == "12.5"


def test_requests_at_once_are_the_rate_times_the_wait():
    made = figures(dev=60)
    assert serve_page.at_once(made, "dev", 8) == pytest.approx(8)


def test_ratios_are_taken_within_a_round():
    made = Figures(serve.OURS, [], 2, 3)
    for slow, fast in ((100, 200), (1000, 2000), (10, 20)):  # the machine gets faster and slower
        made.add("a", *SELECT, sample(slow))
        made.add("b", *SELECT, sample(fast))
    assert made.ratio("a", "b", SELECT) == 0.5


def test_the_knee_is_the_number_of_workers_that_answers_most():
    best = str(Shape(1, 2))
    made = figures(**{best: 6000})
    assert serve_page.knee(made, serve.CORES) == (1, 0.5)
    assert "1 worker reach" in serve_page.workers_text(made)


def test_every_number_of_workers_up_to_2n_plus_5_is_tried():
    assert serve.sweep(1, quick=False) == [1, 2, 3, 4, 5, 6, 7]
    assert serve.sweep(2, quick=False) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_worker_of_one_thread_is_a_sync_one():
    assert Shape(5, 1).settings()["worker_class"] == "sync"
    assert "worker_class" not in Shape(5, 2).settings()


def test_what_a_setting_costs_is_said_only_where_it_does():
    assert "More in every round: none of them" in serve_page.knobs_text(figures())
    assert "(`NullPool`) (2.00)" in serve_page.knobs_text(figures(**{"no pool": 1500}))


def test_what_is_less_than_two_of_the_same_differ_is_not_said():
    slower = figures(**{"no pool": 1500, "ours": 1500})
    assert "differs by up to 100%" in serve_page.knobs_text(slower)
    assert "More in every round: none of them" in serve_page.knobs_text(slower)


def test_a_difference_that_not_every_round_shows_is_called_none():
    assert serve_page.compared([0.9, 1.2]) == "0.90 to 1.20 times: no difference seen"
    assert serve_page.compared([1.1, 1.2]) == "1.10 to 1.20 times"


def test_a_difference_that_rounds_of_the_same_settings_also_have_is_called_noise():
    assert serve_page.compared([1.1, 1.2], alike=0.8) == "1.10 to 1.20 times, within the noise"
    assert serve_page.compared([0.7, 0.9], alike=0.8) == "0.70 to 0.90 times, within the noise"
    assert serve_page.compared([1.3, 1.4], alike=0.8) == "1.30 to 1.40 times"
    assert serve_page.compared([0.9, 1.2], alike=0.8).endswith("no difference seen")


def test_noise_is_the_lowest_round_beside_the_highest_of_the_same_settings():
    made = Figures(serve.OURS, [], serve.CORES, 3)
    for one, two in ((1100, 1000), (1200, 900), (1300, 1040)):
        made.add("ours", *SELECT, sample(one))
        made.add(str(serve.OURS), *SELECT, sample(two))
    assert made.alike(SELECT) == pytest.approx(900 / 1300)


def test_the_knee_and_the_shapes_say_what_is_noise():
    best = str(Shape(serve.CORES, 2))
    seen = figures(**{best: 3600})  # the default answers 83 % of that
    assert "answer 83% of it." in serve_page.workers_text(seen)
    assert "ours 83%;" in serve_page.shapes_text(seen)
    assert "answer 83% of that |" in serve_page.claims_table(seen)
    hidden = figures(**{best: 3600, "ours": 2400})  # the same settings, and 80 %
    assert "answer 83% of it, within the noise." in serve_page.workers_text(hidden)
    assert "ours 83%, within the noise;" in serve_page.shapes_text(hidden)
    assert "answer 83% of that, within the noise |" in serve_page.claims_table(hidden)
    assert "one has this share of the highest" in serve_page.noise_text(hidden)
    assert "SELECT and 64 80%" in serve_page.noise_text(hidden)


def test_a_setting_whose_rate_is_noise_is_not_listed():
    assert "outside the noise: no pool (`NullPool`)." in serve_page.knobs_text(
        figures(**{"no pool": 2000})
    )
    assert "outside the noise: none of them." in serve_page.knobs_text(
        figures(**{"no pool": 2000, "ours": 2000})
    )


@pytest.mark.parametrize("quick", [True, False])
def test_the_page_answers_every_claim(quick):
    text = serve_page.section(figures(quick), "a machine")
    for claim in ("100 requests/s", "1 at a time", "800 requests/s", "8 at a time", "50 MB"):
        assert claim in text
    assert "nan" not in text
    assert max(map(len, prose(text))) <= 100


def test_the_page_in_vietnamese_has_the_figures_and_the_date_of_the_page():
    page = (ROOT / "docs/benchmarks.md").read_text().partition("<!-- serve:begin -->")[2]
    said = (ROOT / "docs/vi/gunicorn-psycopg2.md").read_text()
    _, _, part = said.partition("**Nhanh bao nhiêu?**")
    rows = [line for line in part.partition("\n\n**")[0].splitlines() if line.startswith("|")]
    figures_there = [number for row in rows[2:] for number in re.findall(r"\b\d{2,}\b", row)]
    assert len(figures_there) == 9
    _, _, claims = page.partition("| claim | measured |")
    claims = claims.partition("\n\n")[0]
    assert [one for one in figures_there if not re.search(rf"\b{one}\b", claims)] == []
    (date,) = re.findall(r"\d{4}-\d\d-\d\d", part.partition("\n\n**")[0])
    assert date in page.partition("###")[0]


def prose(text):
    return [line for line in text.splitlines() if not line.startswith(("|", "!"))]


def test_figures_come_back_as_they_were_saved(tmp_path):
    made = figures(quick=True)
    made.save(tmp_path / "serve.json", "a machine")
    found, machine = Figures.load(tmp_path / "serve.json")
    assert serve_page.section(found, machine) == serve_page.section(made, "a machine")


def test_pictures_show_every_round():
    made = figures(rounds=1)
    made.add("dev", "live", 8, sample(1500))
    made.add("dev", "live", 8, sample(4500))
    line = serve_page.pictures(made)["servers"]["panels"][0]["lines"]["flask run"]
    assert line[1] == [8, 2000, 1000, 3000]


def test_the_report_of_wrk_is_found_among_what_it_says():
    report = {"requests": 7, "seconds": 1.5}
    assert agent.report(f"Running 1m test\n{json.dumps(report)}\n") == report


def test_a_load_generator_that_reports_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="unable to connect"):
        agent.report("unable to connect to 127.0.0.1:8001 Connection refused")


def test_the_load_gets_the_cores_that_the_server_does_not_have(monkeypatch):
    monkeypatch.setattr(agent.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(agent.State, "cores", "0")
    assert agent.wrk("select", 8, 1.5)[:3] == ["taskset", "--cpu-list", "1,2,3"]
    monkeypatch.setattr(agent.State, "cores", "")
    assert agent.wrk("select", 8, 1.5)[:3] == ["timeout", "--signal=INT", "1.5"]
