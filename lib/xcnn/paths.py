"""Where the files lie that come with the library."""

from pathlib import Path


def data_folder():
    """`data/` of the repository, or its copy inside an installed package.

    >>> (xcnn.paths.data_folder() / "class_map.json").exists()
    True
    """
    inside = Path(__file__).parent / "data"
    return inside if inside.exists() else Path(__file__).resolve().parents[2] / "data"
