"""How gunicorn serves in a container, and in the same words on the server."""

import gc
import os
import runpy
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

SETTINGS = Path(__file__).parents[1] / "gunicorn.container.py"


@pytest.fixture
def settings():
    yield runpy.run_path(str(SETTINGS))
    gc.unfreeze()


def test_there_are_two_workers_for_each_core_and_one_more(settings, monkeypatch):
    assert settings["workers"] == 2 * len(os.sched_getaffinity(0)) + 1
    monkeypatch.setenv("GUNICORN_WORKERS", "7")
    assert runpy.run_path(str(SETTINGS))["workers"] == 7


def test_a_worker_has_a_pool_of_its_own(settings, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/test.db")
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    of_the_master = engine.pool

    settings["pre_fork"](None, None)
    assert engine.pool is of_the_master
    settings["post_fork"](None, None)

    assert engine.pool is not of_the_master
    assert engine.pool.checkedin() == 0
    of_the_master.dispose()


def test_an_engine_made_after_the_first_worker_is_found_for_the_next(settings):
    settings["pre_fork"](None, None)
    engine = create_engine("sqlite://")
    settings["pre_fork"](None, None)
    assert engine in settings["engines"]


def test_a_worker_leaves_alone_what_it_shares_with_the_others(settings, monkeypatch):
    settings["pre_fork"](None, None)
    assert gc.get_freeze_count() > 10_000

    def refuse():
        raise AssertionError("looking at each object copies its memory")

    monkeypatch.setattr(gc, "get_objects", refuse)
    settings["post_fork"](None, None)
