"""Where the shipped data lie."""

from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
