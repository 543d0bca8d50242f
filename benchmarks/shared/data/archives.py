"""Archives, and the files of the data folder that come out of them."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pooch

from benchmarks.shared.data.files import (
    OTHER_FOLDER,
    DataDir,
    DataError,
    RemoteFile,
    data_folder,
    fetch,
)


class Archive(NamedTuple):
    """A published archive, and the files of the data folder that come out of it.

    Attributes:
      file: the archive itself.
      members: the names of the files in it: those of the training part, then that of
        the test part.
    """

    file: RemoteFile
    members: tuple[str, ...]

    def error(self, path: Path, problem: str) -> DataError:
        """The error to raise about a member at `path`, with the ways out of it."""
        return DataError(
            f"{path} {problem}.\n"
            f"Delete it to have it extracted again from {self.file.name} "
            f"({self.file.url}), {OTHER_FOLDER}"
        )


def fetch_members(archive: Archive, data_dir: DataDir) -> list[Path]:
    """The paths of an archive's members, after extracting those that are missing."""
    folder = data_folder(data_dir)
    missing = [name for name in archive.members if not (folder / name).exists()]
    if missing:
        [path] = fetch([archive.file], data_dir)
        try:
            _extract(path, missing)
        except OSError as error:
            raise archive.file.error(path, f"can't be extracted ({error})") from error
    return [folder / name for name in archive.members]


def _extract(path: Path, members: list[str]) -> None:
    """Extract members beside their archive, where each appears whole, in one move."""
    with TemporaryDirectory(prefix="extracting-", dir=path.parent) as scratch:
        untar = pooch.Untar(extract_dir=Path(scratch).name)
        untar(str(path.absolute()), "download", None)
        for name in members:
            target = path.parent / name
            target.parent.mkdir(exist_ok=True)
            os.replace(Path(scratch, name), target)
