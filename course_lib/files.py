"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, readable by all: complete, or (disk full, killed) what was there before. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(unfinished, 0o644)  # a temporary file is for its owner's eyes only
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
