"""The pictures of docs/: drawn by Graphviz from text, coloured by one style sheet."""

import hashlib
import re
import subprocess

from . import ROOT, setup
from .report import step

FOLDER = ROOT / "docs/pictures"
STYLE = FOLDER / "style.css"


def draw():
    """Draw every picture; return the exit code."""
    setup.prepare("tools", "pictures")
    for source in sorted(FOLDER.glob("*.dot")):
        picture = source.with_suffix(".svg")
        with step(f"Drawing {picture.relative_to(ROOT)}"):
            drawn = subprocess.run(
                ["dot", "-Tsvg", source], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            picture.write_text(styled(drawn, source))
    return 0


def styled(drawn, source):
    """Return what Graphviz drew, with the style sheet, the stamp, and nothing superfluous."""
    svg = re.sub(r"<\?xml.*?(?=<svg)|<!--.*?-->\n?|(?<=</title>)\n", "", drawn, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"(?:node|edge|clust)\d+\"", "<g", svg)
    svg = re.sub(r"(?<=<g class=\"(?:node|edge) )", "", svg)
    name = re.search(r"<title>(.*?)</title>", svg)[1]
    svg = re.sub(r"(?<!role=\"img\">)<title>.*?</title>", "", svg)
    head = f"<title>{name}</title>\n<!-- {stamp(source)} -->\n<style>\n{STYLE.read_text()}</style>"
    return re.sub(r"(<svg [^>]*>)", rf"\1\n{head}", svg, count=1)


def stamp(source):
    """Return which text a picture was drawn from."""
    digest = hashlib.sha256(source.read_bytes() + STYLE.read_bytes()).hexdigest()
    return f"make pictures: {source.name} {digest[:16]}"
