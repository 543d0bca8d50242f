"""Tiny Shakespeare: a million characters of his plays."""

from benchmarks.shared.data.files import DataDir, fetch, remote_files

_FILE = """
input.txt 1115394
    86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
"""
_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"

FILES = remote_files(_FILE, _URL, "tinyshakespeare/")


def load(data_dir: DataDir = None) -> str:
    """The text, after downloading its file if the data folder lacks it.

    Raises:
      DataError: if the folder doesn't exist, or if the file is damaged, or missing and
        not to be downloaded.
    """
    [path] = fetch(FILES, data_dir)
    return path.read_text(encoding="ascii")
