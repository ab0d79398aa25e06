"""Scripts that build the book (`tools.book`) and make its data (`tools.data`).

Run one from the root of the repository, as `python -m tools.book.NAME`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
