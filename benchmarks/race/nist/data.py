"""NIST's reference data for nonlinear regression (StRD), as it is published.

The 27 files lie in the folder nist-strd/ of the data folder, where pooch downloads
those that are missing. The header of each names the lines of the starts, of the
certified values and of the data.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.shared.data.files import (
    DataDir,
    DataError,
    check_name,
    fetch,
    remote_files,
)

FOLDER = "nist-strd"
STARTS = 2
LEVELS = ("Lower", "Average", "Higher")

_URL = "https://www.itl.nist.gov/div898/strd/nls/data/LINKS/DATA"

# By level of difficulty, as NIST lists them: name, size, sha256.
_FILES = """
Misra1a.dat 1853 45c8da1de19d1cd0bdcefe06e333dee7ec8b31fa5c58b4eada427a7777853650
Chwirut2.dat 3060 968142c6f5427d87b1fed1e1bfc8cfce1f7ae8c6b89d3fbfb4960d7ced3c1e11
Chwirut1.dat 7558 a934a583464358c8cb3f67d27a016c15ab90dadfbf5303079b33dd284134b55b
Lanczos3.dat 2574 1a9fc8e9adefdd5222ce99d71e640605b4093778af3b31f0f186bd1036cece09
Gauss1.dat 8098 c7ce799e2a6667ae682152a816e7105645d0ae50acf968339862ace9dd51e8f2
Gauss2.dat 8100 77182830681f7b4ec1eab70e44e2e63b793022a779a40e495201ee3a4a63f618
DanWood.dat 1990 e8d05d54bc3646796cf8d5291c5e39c826049df4771587263357d76c18c393c2
Misra1b.dat 1845 521c50ed2063858bfa577c1413fbc07644c8425c8cd2819da004efc3c7b5c705
Kirby2.dat 5858 64f9f1c525a76d0ca56de05bf8f053dcced5f91a6eeb156051dbcb5b9b81c374
Hahn1.dat 9276 251ab6520101c6a14d50a3f3b9472b4ab9f720852efbd735c7a3aee12a9c65f5
Nelson.dat 7001 fc368adf8ac8c17658d3be390c73382398a17fd97786bcb83dd979e3c5946514
MGH17.dat 3078 8f8c6156dce64a48fd475388401d0e51fd1ab08d55e2f72978b69e7256ae3674
Lanczos1.dat 2945 42a9c2d11fd7cbfd88f9d1e56e25fc9ec8fe89a684f452feee74c0f59ede0efc
Lanczos2.dat 2601 4a3aaac05a11811d36c473bb505f8c9183b4060a3586a876813bedd81290116f
Gauss3.dat 8102 14c252a4d796a582af55f3a4fa5f4be3b32cd02798073a526cc5ced565117a03
Misra1c.dat 1839 bf51450b3582c2bdc660fe4e7554db3210c8546b1b03429b092b6d57a5d48404
Misra1d.dat 1843 55a26f4017fe7580cc59692527068d29c94f95f27ca1f4472916d3ac29b663f8
Roszman1.dat 2486 b62c19e840e9686ed11732bd45398e07efc240cb542ac11f1b7b77368f5a89e0
ENSO.dat 6761 f27b059fb680f986a0eb44a54fa4705bff1bd2ba4b0214bb680c19e2d66f2972
MGH09.dat 2305 6913c6e6f158da10d70154b6288883e81bc17f69e6092ae87ad44977552d18bf
Thurber.dat 3026 b66224bd6ec25754af5ec16f00b25ce18ccc8c09b40ebe0acf8515d01abec0a4
BoxBOD.dat 1713 406992ecdd177696e45662e927ad26947d9f3b095e02537d50fc880f982d720a
Rat42.dat 1873 a06bacb7113903cfbf607b5243d4525b58929172f60ac54c764a268525fdda83
MGH10.dat 2335 f89e5ff39d3b77dcb8bd6df9c5f93ff9872350aadc902b68d718ee229c484fb4
Eckerle4.dat 2773 b91c6505f0f0c8504e1b4c87b2a043368a8e18bd5ecb5efeb7a0fb346e9a3e10
Rat43.dat 2072 5bcbb16649254975701acb2e07a5658a2248ce90cc22bc6f52e35e2a4cc0ee9e
Bennett5.dat 6869 e2be71fffe2a78821361ff3e71eef4549df7015911e3e8e893f3914829872ab4
"""


class Reference(NamedTuple):
    """A data set with its certified fit, all in float64.

    Attributes:
      name: NIST's.
      level: of difficulty, one of `LEVELS`.
      y: the response, one an observation.
      x: the predictors, a row each.
      starts: a row a start, a column a parameter.
      certified: the parameters of the best fit.
      certified_rss: its residual sum of squares.
    """

    name: str
    level: str
    y: np.ndarray
    x: np.ndarray
    starts: np.ndarray
    certified: np.ndarray
    certified_rss: float


FILES = {Path(f.name).stem: f for f in remote_files(_FILES, _URL, f"{FOLDER}/")}
"""By the name of the data set."""


def load(name: str, data_dir: DataDir = None) -> Reference:
    """Reads a data set, after downloading its file if that is missing.

    Args:
      name: one of the names in `FILES`.
      data_dir: an existing folder, in place of that of `shared.data.files`.

    Raises:
      ValueError: if the name is unknown.
      DataError: if the folder doesn't exist, or if the file is damaged, or missing and
        not to be downloaded.
    """
    check_name(name, FILES)
    [path] = fetch([FILES[name]], data_dir)
    return parse(path)


def parse(path: Path) -> Reference:
    """Reads a file by the line numbers in its header.

    Raises:
      DataError: if it isn't such a file.
    """
    text = path.read_text(encoding="ascii")
    try:
        return _parse(path.stem, text)
    except ValueError as error:
        raise DataError(f"{path} is no file of NIST's: {error}.") from error


def _parse(name: str, text: str) -> Reference:
    lines = text.splitlines()
    # A row a parameter: b1 = start 1, start 2, certified value, standard deviation.
    rows = [row.split("=")[1] for row in _section(lines, "Starting Values")]
    values = _numbers(rows, STARTS + 2).T
    data = _numbers(_section(lines, "Data"), None).T
    [rss] = _found(r"Residual Sum of Squares: +(\S+)", text)
    [level] = _found(rf"({'|'.join(LEVELS)}) Level of Difficulty", text)
    return Reference(
        name=name,
        level=level,
        y=data[0],
        x=data[1:],
        starts=values[:STARTS],
        certified=values[STARTS],
        certified_rss=float(rss),
    )


def _section(lines: Sequence[str], title: str) -> Sequence[str]:
    """The lines that the header names under a title."""
    first, last = _found(rf"{title} +\(lines +(\d+) +to +(\d+)\)", "\n".join(lines))
    return lines[int(first) - 1 : int(last)]


def _found(pattern: str, text: str) -> Sequence[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"it has no {pattern!r}")
    return found.groups()


def _numbers(rows: Sequence[str], columns: int | None) -> np.ndarray:
    numbers = np.array([[float(cell) for cell in row.split()] for row in rows])
    if numbers.ndim != 2 or columns not in (None, numbers.shape[1]):
        raise ValueError(f"a table of it has the shape {numbers.shape}")
    return numbers
