"""Where the real data sets are: RAVINE_DATA, or `shared/data` beside the repository, as in the tests."""

import os
from pathlib import Path


def data_folder(name: str) -> Path:
    """The folder of a data set; where it is absent the benchmark ends and says so."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RAVINE_DATA", default)) / name
    if not folder.is_dir():
        raise SystemExit(f"{name} is not at {folder}; set RAVINE_DATA to the folder that holds it")
    return folder
