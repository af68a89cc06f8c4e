# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.11.2"]
# ///
"""Draw the answers around each event, one row for each way to bring new code, as an SVG.

Every request is a line, which begins when it was sent and rises until its answer came; those that
fall on the same spot are drawn once. The same input gives the same bytes. The colours are readable
on white and on black, and there is no background. uv brings the libraries:

    uv run --script plot.py ROWS.json PICTURE.svg

Each row has `title`, `result`, `switch` (seconds, or null) and `answers`, which are lists of
[seconds from the start of the command, seconds to the answer, whether it was 2xx].
"""

import json
import math
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from matplotlib import pyplot

import look
from look import BLUE, BROWN, RED, TEXT

WIDTH, ROW_HEIGHT, EDGES = 9, 1.05, 0.9
BEFORE_SECONDS = 1
SPOT = (0.04, 0.02)  # in seconds: about two pixels


def spots(answers: list, good: bool) -> list[tuple[float, float]]:
    """Return when the good or the failed requests were sent and how long they took."""
    grid = {
        (round(since / SPOT[0]), round(seconds / SPOT[1]))
        for since, seconds, is_good in answers
        if is_good == good and since >= -BEFORE_SECONDS
    }
    return [(x * SPOT[0], y * SPOT[1]) for x, y in sorted(grid)]


def draw_row(axes, row: dict) -> None:
    """Draw one row."""
    axes.set_title(row["title"], loc="left", fontsize=9, fontweight="bold")
    axes.set_title(row["result"], loc="right", fontsize=9)
    axes.axvline(0, color=TEXT, linewidth=0.8)
    if row["switch"] is not None:
        axes.axvline(row["switch"], color=BROWN, linewidth=1.2, linestyle="--")
    good, failed = spots(row["answers"], good=True), spots(row["answers"], good=False)
    over_the_edge = {"clip_on": False, "in_layout": False}
    # One path for all is much smaller than one for each.
    xs = [x for sent, seconds in good for x in (sent, sent + seconds, math.nan)]
    ys = [y for _, seconds in good for y in (0, seconds, math.nan)]
    axes.plot(xs, ys, color=BLUE, linewidth=2, solid_capstyle="round", **over_the_edge)
    xs, ys = [sent + seconds for sent, seconds in failed], [seconds for _, seconds in failed]
    axes.plot(xs, ys, "x", color=RED, markersize=6, **over_the_edge)


def draw(rows: list[dict], picture: Path) -> None:
    """Draw all rows with the same axes."""
    shown = [answer for row in rows for answer in row["answers"]]
    last, slowest = (
        max(answer[0] + answer[1] for answer in shown),
        max(answer[1] for answer in shown),
    )
    height = EDGES + ROW_HEIGHT * len(rows)
    with look.mpl.rc_context(look.SETTINGS):
        figure, all_axes = pyplot.subplots(
            len(rows), sharex=True, sharey=True, figsize=(WIDTH, height), layout="constrained"
        )
        for axes, row in zip(all_axes, rows, strict=True):
            draw_row(axes, row)
        all_axes[0].set(xlim=(-BEFORE_SECONDS, last), ylim=(0, slowest * 1.05))
        figure.supylabel("time to the answer, s", fontsize=9)
        figure.supxlabel(
            "s from the start of the command\nblue: from each request to its 2xx answer, "
            "red cross: failed request, dashed: first answer of the new release",
            fontsize=9,
        )
        look.save(figure, picture)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
