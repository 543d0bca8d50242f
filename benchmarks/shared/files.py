"""Files that are complete at every moment."""

import os
from collections.abc import Iterable, Iterator
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


def as_page(sections: Iterable[str]) -> str:
    """Sections in Markdown, an empty line between them."""
    return "\n\n".join(sections) + "\n"


def write_page(path: Path, text: str) -> None:
    """Writes a page in one move."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")
