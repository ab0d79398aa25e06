"""Scripts: what builds the book (`book`) and what makes data (`data`). Run one as `python -m tools.book.NAME`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
