"""Files that are complete at every moment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` in one move when it is done.

    So nobody ever sees half of it, and a failure leaves what was there. The folder is
    made on demand.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    yield partial
    os.replace(partial, path)
