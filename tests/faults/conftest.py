"""What the fault suite is told by its environment, and where it writes its counts.

FINER_RELIABILITY=docs/results/reliability.json has every test add what it counted to that file.
FINER_FAULTS=0.1 has a tenth of the faults tried.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from finer_nerfstudio.files.atomic import write_json


@pytest.fixture(scope="session")
def share() -> float:
    """Of the faults that a whole run tries."""
    return float(os.environ.get("FINER_FAULTS", "1"))


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    """Keeps what a test counted, by its name, in the place of what was there under that name."""
    place = os.environ.get("FINER_RELIABILITY")

    def keep(name: str, **counted: Any) -> None:
        print(name, counted)
        if place is None:
            return
        path = Path(place)
        with FileLock(Path(tempfile.gettempdir()) / "finer-reliability.lock"):  # parts of the suite may run beside it
            results = json.loads(path.read_text()) if path.exists() else {}
            results[name] = {**counted, "python": platform.python_version(), "date": date.today().isoformat()}
            write_json(path, dict(sorted(results.items())))

    return keep
