"""The pictures of docs/ are what their text gives: small, readable by day and by night."""

import re
from xml.etree import ElementTree

import pytest

from runner import pictures

SOURCES = sorted(pictures.FOLDER.glob("*.dot"))
MOST_BYTES = 30_000


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


@pytest.fixture
def svg(source):
    return source.with_suffix(".svg").read_text()


def test_every_picture_has_a_text_it_is_drawn_from():
    drawn = {path.stem for path in pictures.FOLDER.glob("*.svg")}
    assert drawn == {path.stem for path in SOURCES}
    assert len(drawn) >= 2


def test_a_picture_is_drawn_from_the_text_of_today(source, svg):
    assert f"<!-- {pictures.stamp(source)} -->" in svg, "Fix: make pictures"


def test_a_picture_shows_the_labels_of_its_text(source, svg):
    text = source.read_text()
    labels = re.findall(r'label="([^"]+)"', text)
    labels += re.findall(r">([^<>\n]+)</(?:b|font)>", text)
    shown = {element.text for element in ElementTree.fromstring(svg).iter() if element.text}  # noqa: S314
    assert len(labels) > 5
    assert {label.strip() for label in labels} <= {text.strip() for text in shown}


def test_a_picture_is_small_and_needs_nothing_from_elsewhere(svg):
    assert len(svg.encode()) < MOST_BYTES
    assert not re.search(r"<script|<image|href=|@import|url\(", svg)


def test_a_picture_has_a_title_and_colours_for_the_dark(svg):
    assert re.search(r"<title>.{20,}</title>", svg)
    assert "prefers-color-scheme: dark" in svg


def test_what_graphviz_draws_gets_one_title_the_style_and_no_numbers(source):
    drawn = (
        '<?xml version="1.0"?>\n<!-- Generated -->\n<svg width="9pt">\n<g id="graph0">\n'
        '<title>A picture</title>\n<g id="node1" class="node part">\n<title>web</title>\n</g>'
        "</g></svg>"
    )
    styled = pictures.styled(drawn, source)
    assert styled.startswith('<svg width="9pt">\n<title>A picture</title>')
    assert styled.count("<title>") == 1
    assert "node1" not in styled
    assert ".heart > path" in styled
