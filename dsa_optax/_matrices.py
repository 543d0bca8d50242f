"""What Muon should take for matrices: convolutions' kernels, too."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

Numbers: TypeAlias = optax.contrib.MuonDimensionNumbers
"""Which axes of a leaf are a matrix's."""

LARGEST_WINDOW = 15
"""More rows or columns no convolution's window has: then the axes are others."""


def matrices(params: optax.Params) -> Any:
    """Which parameters are matrices to Muon, convolutions' kernels among them.

    Optax's Muon takes arrays of two axes for matrices, and leaves all others to AdamW:
    every convolution. Muon's authors flatten a kernel to a matrix of (rows × columns ×
    channels in) × channels out, and so does this, where the tree tells what is one: an
    array named `kernel`, as Flax does it, of shape (..., channels in, channels out),

    - of four axes, the first two at most 15 long (a window on a picture);
    - of three to five axes below a module whose name has "conv" in it.

    Arrays of two axes are matrices, as to Optax; all others, layers that are stacked
    for a scan among them, are not.

    Args:
      params: a pytree of arrays, such as Flax's.

    Returns:
      A tree like the params, of `optax.contrib.MuonDimensionNumbers` or None, which
      `optax.contrib.muon` and `auto_dsa` take as `muon_weight_dimension_numbers`; they
      take this function itself as well.

    Examples:
      >>> import jax.numpy as jnp, optax, dsa_optax
      >>> params = {
      ...     "Conv_0": {"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)},
      ...     "Dense_0": {"kernel": jnp.zeros((16, 10)), "bias": jnp.zeros(10)},
      ... }
      >>> numbers = dsa_optax.matrices(params)
      >>> numbers["Conv_0"]["kernel"]
      MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
      >>> numbers["Conv_0"]["bias"] is None
      True
      >>> tx = optax.contrib.muon(
      ...     0.02, muon_weight_dimension_numbers=dsa_optax.matrices
      ... )

    References:
      Jordan, `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024, who flattens
      the kernels of convolutions.
    """
    return jax.tree.map_with_path(_numbers_of, params)


def _numbers_of(path: Sequence[Any], param: Any) -> Numbers | None:
    shape = jnp.shape(param)
    if not all(shape):  # Muon would divide by zero
        return None
    if len(shape) == 2:
        return Numbers()
    if _is_convolution([_name(key) for key in path], shape):
        last = len(shape) - 1
        return Numbers(tuple(range(last)), last)
    return None


def _is_convolution(names: Sequence[str], shape: Sequence[int]) -> bool:
    if "kernel" not in names or not 3 <= len(shape) <= 5:
        return False
    has_window = len(shape) == 4 and max(shape[:2]) <= LARGEST_WINDOW
    return has_window or any("conv" in name.lower() for name in names)


def _name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", key)))
