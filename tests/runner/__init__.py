"""What `make` does: set up, demo, test. Python's own library only, since it runs before set-up."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
