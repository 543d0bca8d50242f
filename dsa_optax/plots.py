"""Figures of what the learning rates, and the directions, did over training."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from dsa_optax._diagnostics import RateSummary

__all__ = ["plot_learning_rates", "plot_step_lengths"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What can still be read on one figure.
_MAX_LEAVES = 24
_COLUMNS = 4
_MAX_NAME = 34
_TICKS = 6
# The shares of a small leaf jump from step to step: so many means are drawn of them.
_MEANS = 50

# Okabe and Ito's palette, which the colour-blind can tell apart.
_RATES, _GREW, _SHRANK, _BOUND = "#0072B2", "#009E73", "#D55E00", "#000000"

_PARTS: tuple[dict[str, Any], ...] = (
    {"color": _SHRANK, "linewidth": 1.6},
    {"color": _RATES, "linewidth": 1.6},
    {"color": _GREW, "linewidth": 1.6},
    {"color": _BOUND, "linewidth": 1.6, "linestyle": "--"},
)

_HOW = (
    "collect `dsa_optax.summary(new_state, state)` at every step, as the output of "
    "jax.lax.scan or in a list"
)


class _Rates(NamedTuple):
    """A `RateSummary` stacked over the steps, in NumPy."""

    quantiles: np.ndarray
    grew: np.ndarray
    shrank: np.ndarray
    at_bound: np.ndarray


def plot_learning_rates(
    history: Any,
    *,
    leaves: str | Sequence[str] | None = None,
    steps: Sequence[int] | np.ndarray | jax.Array | None = None,
    title: str | None = None,
) -> "Figure":
    """Draws the learning rates of each leaf over the course of training.

    A panel a leaf: above, the median of its learning rates, their quartiles and their
    range, on one log2 axis for all leaves (a linear one if a rate is negative, as those
    of `basic_dsa` and `parameterwise_dsa` may be). Below, stacked, the shares of the
    rates that grew and, from the top, that shrank, with the share at a bound. In a
    history of 100 steps or more the shares are running means. Leaves without entries
    are left out.

    A notebook shows the figure as it is; `figure.savefig("rates.png")` writes a file.
    It needs matplotlib: `pip install 'dsa-optax[plots]'`.

    Args:
      history: what `summary` returned at every step, either stacked, as `jax.lax.scan`
        does with its outputs, or a list. Of a run under `vmap`, take one member.
      leaves: which leaves to draw: those whose name ("Dense_0/kernel") has this string
        in it, or one of these strings. None draws all, if they are at most 24.
      steps: when each of the summaries was taken; None is 1, 2, 3, ….
      title: the title of the figure.

    Returns:
      A matplotlib `Figure`, which pyplot doesn't know of and need not close.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if `history` is empty or is none, if `leaves` choose no leaf or too
        many, or if there are not as many `steps` as summaries.

    Examples:
      >>> import jax, jax.numpy as jnp, dsa_optax
      >>> loss = lambda params: jnp.sum(params["w"] ** 2) + params["b"] ** 2
      >>> params, tx = {"w": jnp.ones(3), "b": jnp.ones(())}, dsa_optax.dsa()
      >>> step = dsa_optax.make_train_step(loss, tx, donate=False)
      >>> def body(carry, _):
      ...     params, state, value = step(*carry)
      ...     return (params, state), dsa_optax.summary(state, carry[1])
      >>> _, history = jax.lax.scan(body, (params, tx.init(params)), length=30)
      >>> figure = dsa_optax.plots.plot_learning_rates(history, leaves="w")
      >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
      ['w']
    """
    chosen = _choose(_by_name(history), leaves)
    length = len(next(iter(chosen.values())).grew)
    times = np.arange(1, length + 1) if steps is None else np.asarray(steps)
    if times.shape != (length,):
        raise ValueError(
            f"`steps` must have one entry for each of the {length} summaries, but is "
            f"of shape {times.shape}."
        )
    rows = math.ceil(len(chosen) / _COLUMNS)
    columns = math.ceil(len(chosen) / rows)
    figure = _figure(max(3.2 * columns, 5.6) + 0.6, 3.1 * rows + 0.9)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=(2.6, 1) * rows)
    window = max(length // _MEANS, 1)
    top: Axes | None = None
    for place, (name, rates) in enumerate(chosen.items()):
        row, column = divmod(place, columns)
        above = figure.add_subplot(grid[2 * row, column], sharex=top, sharey=top)
        top = top or above
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        _draw_rates(above, times, rates.quantiles)
        _draw_shares(below, times, rates, window)
        above.set_title(_shortened(name), fontsize="medium")
        above.tick_params(labelbottom=False, labelleft=column == 0)
        last = place + columns >= len(chosen)
        below.tick_params(labelbottom=last, labelleft=column == 0)
        if last:
            below.set_xlabel("update")
        if column == 0:
            above.set_ylabel("learning rate")
            below.set_ylabel("share")
    assert top is not None
    _set_scale(top, [rates.quantiles for rates in chosen.values()])
    handles, labels = top.get_legend_handles_labels()
    more_handles, more_labels = below.get_legend_handles_labels()
    figure.legend(
        [*handles, *more_handles],
        [*labels, *more_labels],
        loc="outside lower center",
        ncols=6 if columns > 2 else 3,
        frameon=False,
    )
    if title is not None:
        figure.suptitle(title)
    return figure


def plot_step_lengths(
    lengths: np.ndarray | jax.Array,
    labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> "Figure":
    """Draws which direction of a `blend` carried the step, over the course of training.

    It needs matplotlib: `pip install 'dsa-optax[plots]'`.

    Args:
      lengths: `BlendState.lengths` at every step, stacked: shape (steps, parts), the
        Euclidean norm of each part's update. An update of zero is not drawn.
      labels: a name for each part; those of `auto_dsa` are "sign", "Muon" and, but for
        the light form, "L-BFGS". None is "part 0", "part 1", ….
      title: the title of the figure.

    Returns:
      A matplotlib `Figure`, as `plot_learning_rates` does.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if `lengths` is not of two axes, or there are not as many `labels` as
        parts.

    Examples:
      >>> import jax, jax.numpy as jnp, dsa_optax
      >>> loss = lambda w: jnp.sum((w - 1) ** 2)
      >>> w, tx = jnp.zeros(3), dsa_optax.auto_dsa()
      >>> step = dsa_optax.make_train_step(loss, tx, donate=False)
      >>> def body(carry, _):
      ...     params, state, value = step(*carry)
      ...     return (params, state), state.inner.lengths
      >>> _, lengths = jax.lax.scan(body, (w, tx.init(w)), length=30)
      >>> names = ["sign", "Muon", "L-BFGS"]
      >>> figure = dsa_optax.plots.plot_step_lengths(lengths, names)
      >>> [text.get_text() for text in figure.legends[0].get_texts()]
      ['sign', 'Muon', 'L-BFGS']
    """
    lengths = np.asarray(jax.device_get(lengths), np.float64)
    if lengths.ndim != 2:
        raise ValueError(
            f"`lengths` must be of shape (steps, parts), got {lengths.shape}: stack "
            "those of every step, as jax.lax.scan does with its outputs."
        )
    labels = labels or [f"part {i}" for i in range(lengths.shape[1])]
    if len(labels) != lengths.shape[1]:
        raise ValueError(
            f"`labels` must name the {lengths.shape[1]} parts, got {list(labels)}."
        )
    figure = _figure(6.2, 4.0)
    axes = figure.add_subplot()
    shown = np.where(lengths > 0, lengths, np.nan)
    for label, line, look in zip(labels, shown.T, cycle(_PARTS), strict=False):
        axes.plot(np.arange(1, len(line) + 1), line, label=label, **look)
    axes.set_yscale("log")
    axes.set(xlabel="update", ylabel="length of the step")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    if title is not None:
        figure.suptitle(title)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of some inches that a notebook shows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "dsa_optax draws with matplotlib, which is not installed: "
            "pip install 'dsa-optax[plots]'"
        ) from error

    class ShownFigure(Figure):
        # Without it a notebook shows figures only once pyplot has made one.
        def _repr_png_(self) -> bytes:
            from io import BytesIO

            file = BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return ShownFigure(figsize=(width, height), layout="constrained")


def _by_name(history: Any) -> dict[str, _Rates]:
    """The summaries of each leaf that has entries."""

    def is_summary(node: Any) -> bool:
        return isinstance(node, RateSummary)

    history = jax.device_get(history)
    found = jax.tree.leaves(history, is_leaf=is_summary)
    if not found:
        raise ValueError(f"`history` is empty; {_HOW}.")
    for leaf in found:
        if not is_summary(leaf):
            raise ValueError(
                f"`history` must hold the `RateSummary`s of `dsa_optax.summary`, but "
                f"holds a {type(leaf).__name__}; {_HOW}."
            )
    # A list may also be the params' own structure, with the steps stacked in each leaf.
    if isinstance(history, list) and np.ndim(found[0].grew) == 0:
        structures = {jax.tree.structure(step) for step in history}
        if len(structures) != 1:
            raise ValueError(
                "`history` must be of one training run, but its summaries differ in "
                f"their leaves; {_HOW}."
            )
        history = jax.tree.map(lambda *steps: np.stack(steps), *history)
    stacked = {}
    for path, leaf in jax.tree.leaves_with_path(history, is_leaf=is_summary):
        # NumPy's functions know little of bfloat16.
        leaf = _Rates(*(np.asarray(field, np.float64) for field in leaf))
        _check(leaf)
        # The one leaf of an array, or of `basic_dsa`, has no name.
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        stacked[name or "all parameters"] = leaf
    shown = {
        name: leaf for name, leaf in stacked.items() if not np.isnan(leaf.grew).all()
    }
    if not shown:
        raise ValueError("`history` is of leaves without entries: nothing to draw.")
    return shown


def _check(leaf: _Rates) -> None:
    shape = leaf.grew.shape
    if len(shape) == 0:
        raise ValueError(f"`history` is the summary of a single step; {_HOW}.")
    if len(shape) > 1:
        raise ValueError(
            f"`history` has {len(shape)} axes, {shape}, where one of steps is wanted: "
            "draw one member at a time, as jax.tree.map(lambda x: x[0], history)."
        )
    if shape[0] == 0:
        raise ValueError(f"`history` is empty, of no steps; {_HOW}.")


def _choose(
    stacked: dict[str, _Rates], leaves: str | Sequence[str] | None
) -> dict[str, _Rates]:
    parts = [leaves] if isinstance(leaves, str) else leaves
    chosen = {
        name: leaf
        for name, leaf in stacked.items()
        if parts is None or any(part in name for part in parts)
    }
    names = list(stacked)
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    if not chosen:
        raise ValueError(f"`leaves`={leaves!r} is in the name of no leaf; of: {some}.")
    if len(chosen) > _MAX_LEAVES:
        raise ValueError(
            f"{len(chosen)} leaves are too many for one figure (at most "
            f"{_MAX_LEAVES}): choose by parts of their names, as "
            f"leaves={names[0]!r} or leaves=['kernel', 'bias']; they are: {some}."
        )
    return chosen


def _draw_rates(axes: "Axes", times: np.ndarray, quantiles: np.ndarray) -> None:
    low, first, median, third, high = quantiles.T
    look: dict[str, Any] = {"color": _RATES, "linewidth": 0}
    axes.plot(times, median, color=_RATES, linewidth=1.8, label="median rate")
    axes.fill_between(times, first, third, alpha=0.4, label="quartiles", **look)
    axes.fill_between(times, low, high, alpha=0.18, label="range", **look)
    axes.grid(alpha=0.25)


def _draw_shares(axes: "Axes", times: np.ndarray, rates: _Rates, window: int) -> None:
    grew, shrank, bound = (
        _running_mean(share, window)
        for share in (rates.grew, rates.shrank, rates.at_bound)
    )
    look: dict[str, Any] = {"alpha": 0.6, "linewidth": 0}
    axes.fill_between(times, 0, grew, color=_GREW, label="grew", **look)
    axes.fill_between(times, 1 - shrank, 1, color=_SHRANK, label="shrank", **look)
    axes.plot(times, bound, color=_BOUND, linewidth=1.4, label="at a bound")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    kernel = np.ones(window)
    counts = np.convolve(np.ones_like(values), kernel, "same")
    return np.convolve(values, kernel, "same") / counts


def _set_scale(axes: "Axes", quantiles: list[np.ndarray]) -> None:
    """Log2 where it can be; a rate of 0 lies below such an axis."""
    rates = np.concatenate([np.ravel(some) for some in quantiles])
    rates = rates[np.isfinite(rates)]
    positive = rates[rates > 0]
    if positive.size == 0 or np.any(rates < 0):
        return
    axes.set_yscale("log", base=2)
    low, high = np.log2(positive.min()), np.log2(positive.max())
    margin = max(0.05 * (high - low), 1.1)  # room for two ticks
    low, high = low - margin, high + margin
    stride = 2 ** math.ceil(max(math.log2((high - low) / _TICKS), 0))
    first = math.ceil(low / stride) * stride
    axes.set_yticks(2.0 ** np.arange(first, high, stride))
    axes.set_ylim(2**low, 2**high)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else "…" + name[1 - _MAX_NAME :]
