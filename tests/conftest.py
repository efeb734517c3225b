"""What every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: RAVINE_DATA, or `shared/data` beside the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RAVINE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}; set RAVINE_DATA to the folder that holds them")
    return folder
