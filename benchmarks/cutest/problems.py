"""CUTEst's unconstrained problems as losses of one vector, from the package sif2jax.

To import that package takes minutes, since it makes every problem it has. So each is
loaded from its own module, in a package of another name whose parents are empty.
"""

import ast
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

HALVES = ("choosing", "held-out")
"""What settings may be chosen on, and what is for the end."""

LEFT_OUT: Mapping[str, str] = {
    "CYCLIC3LS": "100,002 parameters",
    "CYCLOOCFLS": "29,996 parameters",
    "DRCAV1LQ": "no slope at the start",
    "DRCAV2LQ": "no slope at the start",
    "INDEF": "no lower bound",
    "INDEFM": "100,000 parameters",
    "YATP1CLS": "123,200 parameters",
    "YATP1LS": "123,200 parameters",
}
"""Why a problem that the package lists isn't here: at most 10,000 parameters are."""

_PACKAGE = "sif2jax"
_ALIAS = f"_{_PACKAGE}_by_module"  # who imports the package itself gets all of it
_FOLDER = ("cutest", "_unconstrained_minimisation")
_LIST = "unconstrained_minimisation_problems"


class Problem(NamedTuple):
    """A loss to minimise, in float64.

    Attributes:
      name: CUTEst's.
      n: how many parameters it has.
      objective: from a vector of them to the loss; to be called in 64 bits.
      start: CUTEst's, as a vector.
    """

    name: str
    n: int
    objective: Callable[[jax.Array], jax.Array]
    start: np.ndarray

    @property
    def half(self) -> str:
        """One of `HALVES`."""
        return half(self.name)


def half(name: str) -> str:
    """Which of `HALVES` a problem is in, by a checksum of its name."""
    return HALVES[zlib.crc32(name.encode()) % 2]


def names() -> Sequence[str]:
    """All problems but those of `LEFT_OUT`, in the package's order."""
    return [name for name in listed() if name not in LEFT_OUT]


@cache
def listed() -> Mapping[str, str]:
    """The modules of the problems that the package lists, by their names.

    What it lists is read, not run. Problems that it defines and doesn't list are those
    that its authors found to differ from CUTEst's.
    """
    text = (_path().joinpath(*_FOLDER) / "__init__.py").read_text(encoding="utf-8")
    modules: dict[str, str] = {}
    called: list[str] = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _LIST:
            parts = ast.walk(node.value)
            called = [ast.unparse(p.func) for p in parts if isinstance(p, ast.Call)]
    return {name: modules[name] for name in dict.fromkeys(called)}


def load(name: str) -> Problem:
    """Loads one problem, in 64 bits, whatever the process is set to.

    Raises:
      KeyError: if the package doesn't list it.
    """
    # Its constants have the dtype of the moment when they are made.
    with jax.enable_x64(True):
        problem: Any = getattr(_module(listed()[name]), name)()
        start, unravel = ravel_pytree(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem.y0)
        )
        args = problem.args

    def objective(vector: jax.Array) -> jax.Array:
        return problem.objective(unravel(vector), args)

    return Problem(name, start.size, objective, np.asarray(start))


def _module(name: str) -> ModuleType:
    """One module of the problems' folder, whose parents are made without running."""
    parent, path = _ALIAS, _path()
    for part in (None, *_FOLDER):
        if part is not None:
            parent, path = f"{parent}.{part}", path / part
        if parent not in sys.modules:
            package = ModuleType(parent)
            package.__path__ = [str(path)]
            sys.modules[parent] = package
    return importlib.import_module(f"{parent}.{name}")


@cache
def _path() -> Path:
    """The package's folder."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"CUTEst's problems need the package {_PACKAGE}: pip install {_PACKAGE}"
        )
    return Path(spec.origin).parent
