"""The files of the data folder, and where the originals are published.

The folder is the `data_dir` argument, else the environment variable `DSA_OPTAX_DATA`,
else the user's cache. pooch downloads those that are missing, and checks them by hash.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import pooch

DATA_DIR_VARIABLE = "DSA_OPTAX_DATA"

DOWNLOAD_TIMEOUT = 10  # seconds without a byte

OTHER_FOLDER = (  # how an error about a file ends
    f"or name the folder that has it with --data-dir or {DATA_DIR_VARIABLE}."
)

DataDir = str | os.PathLike[str] | None


class DataError(RuntimeError):
    """A data set's files are missing or damaged, and can't be downloaded."""


class RemoteFile(NamedTuple):
    """A file of the data folder, and where the original is published.

    Attributes:
      name: its path in the data folder.
      url: of the original.
      size: in bytes.
      sha256: of its content.
      unpacked: whether size and hash are those of what a .gz file holds: the headers of
        copies differ.
    """

    name: str
    url: str
    size: int
    sha256: str
    unpacked: bool = False

    def error(self, path: Path, problem: str) -> DataError:
        """The error to raise about this file at `path`, with the ways out of it."""
        return DataError(
            f"{path} {problem}.\n"
            f"Expected: {self.size} bytes, sha256 {self.sha256}.\n"
            f"Put the file from {self.url} there, {OTHER_FOLDER}"
        )


def remote_files(
    table: str, url: str, folder: str = "", unpacked: bool = False
) -> tuple[RemoteFile, ...]:
    """Files that are published side by side.

    Args:
      table: the name, size in bytes and sha256 of each, with white space between them.
      url: of the folder that they are published in.
      folder: of the data folder, for those that have one of their own.
      unpacked: as in `RemoteFile`, for all of them.
    """
    words = table.split()
    return tuple(
        RemoteFile(f"{folder}{name}", f"{url}/{name}", int(size), sha256, unpacked)
        for name, size, sha256 in zip(words[::3], words[1::3], words[2::3], strict=True)
    )


def data_folder(data_dir: DataDir = None) -> Path:
    """The folder that holds the files; only the default one may not exist yet."""
    variable = os.environ.get(DATA_DIR_VARIABLE)
    for option, given in (("--data-dir", data_dir), (DATA_DIR_VARIABLE, variable)):
        if given:
            folder = Path(given).expanduser()
            if not folder.is_dir():
                raise DataError(f"The data folder {folder} ({option}) is no folder.")
            return folder
    return Path(pooch.os_cache("dsa_optax"))


def check_name(name: str, known: Collection[str]) -> None:
    """Raise `ValueError` if no data set has that name."""
    if name not in known:
        raise ValueError(f"Unknown data set {name!r}; known: {', '.join(known)}.")


def fetch(files: Iterable[RemoteFile], data_dir: DataDir) -> list[Path]:
    """The paths of the files, after downloading those that are missing."""
    folder = data_folder(data_dir)
    paths = []
    for file in files:
        if not _is_there(file, folder):
            _download(file, folder)
        paths.append(folder / file.name)
    return paths


def _is_there(file: RemoteFile, folder: Path) -> bool:
    """Whether the folder has the file; raises `DataError` if it has it damaged."""
    path = folder / file.name
    try:
        if file.unpacked:
            content = gzip.decompress(path.read_bytes())
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        else:
            size, sha256 = path.stat().st_size, pooch.file_hash(path)
    except FileNotFoundError:
        return False
    except (OSError, EOFError, zlib.error) as error:
        raise file.error(path, f"can't be read ({error})") from error
    if sha256 != file.sha256:
        found = f"is damaged: it has {size} bytes, sha256 {sha256}"
        raise file.error(path, f"{found}; delete it to have it downloaded again")
    return True


def _download(file: RemoteFile, folder: Path) -> None:
    """Download the file; pooch moves it to its place only after checking the hash.

    It can't check the hash of what is inside; that comes afterwards.
    """
    downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT)
    known = None if file.unpacked else file.sha256
    try:
        pooch.retrieve(file.url, known, file.name, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # from requests, and about the hash
        problem = f"is missing, and downloading it failed ({error})"
        raise file.error(folder / file.name, problem) from error
    if file.unpacked:
        _is_there(file, folder)
