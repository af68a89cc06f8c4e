# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2"]
# ///
"""Draw what serve.py has measured, as an SVG; uv brings the libraries.

    uv run --script plot.py DATA.json PICTURE.svg

The data has `picture` (servers or workers) and `panels`; a line is a list of
[x, median, lowest, highest].
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from matplotlib import pyplot

import look
from look import BLUE, BROWN, RED, TEXT

COLOURS = (TEXT, BROWN, BLUE, RED)


def draw_line(axes, positions: list, line: list, colour: str, label: str = "") -> None:
    """Draw the medians as a line, and the range of the rounds around it."""
    _, middle, low, high = zip(*line, strict=True)
    axes.fill_between(positions, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(positions, middle, "o-", color=colour, markersize=3, linewidth=1.5, label=label)


def draw_servers(panels: list[dict]):
    """Draw a panel for each endpoint; the numbers of clients stand at equal distances."""
    figure, grid = pyplot.subplots(2, 2, figsize=(9, 5.6), layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=True):
        axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
        for colour, (label, line) in zip(COLOURS, panel["lines"].items(), strict=False):
            positions = list(range(len(line)))
            draw_line(axes, positions, line, colour, label)
            axes.set_xticks(positions, [f"{x:.0f}" for x, *_ in line])
        axes.set_ylim(bottom=0)
    grid.flat[0].legend()
    figure.supxlabel("clients at once", fontsize=9)
    figure.supylabel("good answers a second", fontsize=9)
    return figure


def draw_workers(panels: list[dict]):
    """Draw a panel for each number of cores, and mark 2n+1."""
    figure, row = pyplot.subplots(
        1, len(panels), figsize=(9, 3), layout="constrained", sharey=True, squeeze=False
    )
    for axes, panel in zip(row.flat, panels, strict=True):
        axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
        positions = [x for x, *_ in panel["line"]]
        draw_line(axes, positions, panel["line"], BLUE)
        axes.axvline(panel["formula"], color=BROWN, linewidth=1.2, linestyle="--")
        axes.set_xticks(positions)
        axes.set_ylim(bottom=0)
    figure.supxlabel("workers of 2 threads; dashed: 2n+1", fontsize=9)
    figure.supylabel("SELECTs a second, 64 clients", fontsize=9)
    return figure


def draw(data: dict, picture: Path) -> None:
    """Draw the picture that the data is for."""
    with look.mpl.rc_context(look.SETTINGS):
        kinds = {"servers": draw_servers, "workers": draw_workers}
        look.save(kinds[data["picture"]](data["panels"]), picture)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
