"""CUTEst's problems, without constraints or with bounds, as losses of one vector.

They are in the package sif2jax. To import it takes minutes, since it makes every
problem it has. So each is loaded from its own module, in a package of another name
whose parents are empty.
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
    "CYCLOOCTLS": "30,000 parameters",
    "DEGDIAG": "100,001 parameters",
    "DEGTRID": "100,001 parameters",
    "DEGTRID2": "100,001 parameters",
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
_FOLDER = "cutest"

KINDS: Mapping[str, str] = {
    "unconstrained": "unconstrained_minimisation",
    "bounded": "bounded_minimisation",
}
"""The kinds of problems, and what the package's folders and lists are called."""


class Problem(NamedTuple):
    """A loss to minimise, in float64.

    Attributes:
      name: CUTEst's.
      n: how many parameters it has.
      objective: from a vector of them to the loss; to be called in 64 bits.
      start: CUTEst's, as a vector; where it is out of bounds, the nearest within.
      bounds: the least and the greatest of each parameter, where there are any.
    """

    name: str
    n: int
    objective: Callable[[jax.Array], jax.Array]
    start: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return "bounded" if self.bounds else "unconstrained"

    @property
    def half(self) -> str:
        """One of `HALVES`."""
        return half(self.name)


def half(name: str) -> str:
    """Which of `HALVES` a problem is in, by a checksum of its name."""
    return HALVES[zlib.crc32(name.encode()) % 2]


def names(kind: str | None = None) -> Sequence[str]:
    """All problems of a kind, or of every kind, but those of `LEFT_OUT`."""
    kinds = KINDS if kind is None else [kind]
    return [name for k in kinds for name in listed(k) if name not in LEFT_OUT]


@cache
def listed(kind: str) -> Mapping[str, str]:
    """The modules of the problems that the package lists, by their names.

    What it lists is read, not run. Problems that it defines and doesn't list are those
    that its authors found to differ from CUTEst's.
    """
    path = _path() / _FOLDER / f"_{KINDS[kind]}" / "__init__.py"
    modules: dict[str, str] = {}
    called: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign) and _is_list(node, kind):
            parts = ast.walk(node.value)
            called = [ast.unparse(p.func) for p in parts if isinstance(p, ast.Call)]
    return {name: modules[name] for name in dict.fromkeys(called)}


def _is_list(node: ast.Assign, kind: str) -> bool:
    return ast.unparse(node.targets[0]) == f"{KINDS[kind]}_problems"


def load(name: str) -> Problem:
    """Loads one problem, in 64 bits, whatever the process is set to.

    Raises:
      KeyError: if the package doesn't list it.
    """
    kind = next((kind for kind in KINDS if name in listed(kind)), "unconstrained")
    module = f"_{KINDS[kind]}.{listed(kind)[name]}"
    # Its constants have the dtype of the moment when they are made.
    with jax.enable_x64(True):
        problem: Any = getattr(_module(module), name)()
        start, unravel = ravel_pytree(_in_float64(problem.y0))
        bounds = _bounds(problem, start.size) if kind == "bounded" else None
        args = problem.args

    def objective(vector: jax.Array) -> jax.Array:
        return problem.objective(unravel(vector), args)

    within = np.clip(start, *bounds) if bounds else np.asarray(start)
    return Problem(name, start.size, objective, within, bounds)


def _in_float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def _bounds(problem: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """As vectors; a tree's end may be one number for all of it."""
    low, high = (np.array(ravel_pytree(_in_float64(end))[0]) for end in problem.bounds)
    return np.broadcast_to(low, n), np.broadcast_to(high, n)


def _module(name: str) -> ModuleType:
    """One module below the problems' folders, whose parents are made without running.

    Args:
      name: of folder and module, with a dot between.
    """
    parent, path = _ALIAS, _path()
    for part in (None, _FOLDER, name.split(".")[0]):
        if part is not None:
            parent, path = f"{parent}.{part}", path / part
        if parent not in sys.modules:
            package = ModuleType(parent)
            package.__path__ = [str(path)]
            sys.modules[parent] = package
    return importlib.import_module(f"{_ALIAS}.{_FOLDER}.{name}")


@cache
def _path() -> Path:
    """The package's folder."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"CUTEst's problems need the package {_PACKAGE}: pip install {_PACKAGE}"
        )
    return Path(spec.origin).parent
