"""How the pictures of docs/ look: small, on white and on black, the same bytes each time."""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

TEXT, BLUE, RED, BROWN = "#767676", "#2f81f7", "#e5484d", "#a0732c"
SETTINGS = {
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "path.simplify": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "slipway",
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def save(figure, picture: Path) -> None:
    """Write a figure, without what names other places and without its date."""
    figure.savefig(picture, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    picture.write_text(tidy(picture.read_text()))


def tidy(svg: str) -> str:
    """Drop what names other places, digits that nobody sees, and most line breaks."""
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.1f}", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: short(path[0]), svg)
    return re.sub(r" +$", "", svg, flags=re.MULTILINE)


def short(path: str) -> str:
    """Write a path in few long lines."""
    words, lines = path.replace(".0 ", " ").replace(".0\n", "\n").split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 96 and word in "MLCQz":
            lines.append("")
        lines[-1] += f"{word} "
    return " " + "\n".join(line.strip() for line in lines)
