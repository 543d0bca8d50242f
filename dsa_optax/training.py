"""The paper's training method as a loop that can be killed and goes on.

Not imported by `dsa_optax` itself, which needs neither Orbax nor tqdm:
`pip install "dsa-optax[training]"`, `import dsa_optax.training`.
"""

import os
import time
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from tqdm import tqdm

from dsa_optax import _checks
from dsa_optax._best import Best, better, no_best
from dsa_optax._dsa import dsa
from dsa_optax._self_scaled import SelfScaledState
from dsa_optax._train_step import make_train_step
from dsa_optax.full_batch import batch_rows, microbatched_value_and_grad

__all__ = ["Trained", "fit"]

Data = tuple[Any, ...]
Loss = Callable[..., jax.Array]
Row = dict[str, int | float]
Carry = tuple[optax.Params, optax.OptState, Best]
TrainEpoch = Callable[[Carry, Data, jax.Array], tuple[Carry, jax.Array]]


class Trained(NamedTuple):
    """What `fit` returns.

    Attributes:
      params: after the last epoch.
      best: the best params of the second stage, by the loss on all training data, with
        it; or of both stages, with the number that `best_by` names. Its value is
        infinite where there was none.
      opt_state: the state of the optimizer of the last epoch.
      history: a row an epoch, as for `pandas.DataFrame`: "epoch" from 1 on, "loss" on
        the training data (the mean over the epoch's mini-batches as they came; of a
        full batch the value before its update), "seconds" of training (with the
        compilation, without `evaluate`), and what `evaluate` returned.
    """

    params: optax.Params
    best: Best
    opt_state: optax.OptState
    history: list[Row]


def fit(
    loss_fn: Loss,
    params: optax.Params,
    data: Data,
    key: jax.Array,
    *,
    first: optax.GradientTransformation | None = None,
    first_epochs: int = 15,
    batch_size: int = 64,
    second: optax.GradientTransformation | None = None,
    second_epochs: int = 15,
    microbatch_size: int = 1000,
    evaluate: Callable[[optax.Params], Mapping[str, Any]] | None = None,
    best_by: str | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool = True,
) -> Trained:
    """Trains by mini-batches, then on the full batch (the paper's method, Sec. 2.3).

    An epoch of the first stage goes once through the rows, in a new order, mini-batch
    by mini-batch. One of the second is one update by the gradient of all rows, added up
    from microbatches. With a checkpoint directory, a run that was killed goes on from
    its last checkpoint, and ends, bit for bit, where it would have ended.

    Args:
      loss_fn: `loss_fn(params, *rows, key=key)`, a scalar, a mean over the rows. The
        key is for dropout and the like, and may be ignored; the two gradients of a DSA
        step get the same one.
      params: where to start, a pytree of floating-point arrays.
      data: a tuple of arrays, such as `(x, y)`, with the rows on axis 0. They are moved
        to the device as they are: bytes may become floats in the loss.
      key: decides the order of the rows and the keys of the loss; `jax.random.key(0)`.
      first: the first stage's optimizer; None is the paper's, `optax.adamax(2e-3)`.
      first_epochs: T₁, how many epochs of mini-batches; 0 for none.
      batch_size: rows in a mini-batch; the last may be a short one.
      second: the second stage's optimizer; None is the paper's, `dsa_optax.dsa()`.
      second_epochs: T₂, how many full-batch updates; 0 for none.
      microbatch_size: rows in memory at once in the second stage.
      evaluate: from the params to numbers by name, after every epoch. The params are
        copies, and may be kept.
      best_by: which of these numbers tells the best params, the lowest being the best:
        "test_loss", say. None is the loss on the training data in the second stage.
      checkpoint_dir: a folder for this run alone, made if it isn't there; it holds the
        last checkpoint. None keeps none. A run goes on with the settings, the data and
        the optimizers that it began with, and any other is refused where it is seen:
        of the data in a checksum (of an array above 64 MB that of some of its rows),
        of the optimizers in the shapes and dtypes of the state.
      checkpoint_every: epochs between checkpoints; the last epoch always makes one.
      progress: whether to show a progress bar.

    Returns:
      A `Trained`.

    Raises:
      TypeError: if a number of rows or epochs is not an integer.
      ValueError: if one is negative, or a size 0; if `evaluate` returns no number of
        the name `best_by`; if the arrays have no rows, or
        different numbers of them; if the checkpoints are of a run with other settings,
        other data, or an optimizer with another state.

    Examples:
      >>> import jax, jax.numpy as jnp, dsa_optax.training
      >>> x = jnp.linspace(-1, 1, 100)[:, None]
      >>> y = 3 * x[:, 0] - 1
      >>> def loss(params, x, y, key):
      ...     return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)
      >>> params = {"w": jnp.zeros(1), "b": jnp.zeros(())}
      >>> trained = dsa_optax.training.fit(
      ...     loss, params, (x, y), jax.random.key(0), second_epochs=80, progress=False
      ... )
      >>> len(trained.history), trained.history[-1]["loss"] < 1e-3
      (95, True)

    References:
      Sec. 2.3; Algorithm 1 (Appendix B)
    """
    _check_counts(
        first_epochs=first_epochs,
        batch_size=batch_size,
        second_epochs=second_epochs,
        microbatch_size=microbatch_size,
        checkpoint_every=checkpoint_every,
    )
    # Copies, as every epoch may reuse the memory of what it is given.
    params = jax.tree.map(jnp.array, params)
    data = jax.tree.map(jnp.asarray, tuple(data))
    first = optax.adamax(2e-3) if first is None else first
    second = dsa() if second is None else second
    minibatches = _minibatch_epoch(loss_fn, first, batch_size)
    full_batch = _full_batch_epoch(
        loss_fn, second, microbatch_size, keeps_best=best_by is None
    )
    total = first_epochs + second_epochs
    run = _Run(0, (params, _state(first, params), no_best(params)), [])
    settings = {
        "best_by": best_by,
        "batch_size": int(batch_size),  # JSON knows no integers of NumPy's
        "first_epochs": int(first_epochs),
        "microbatch_size": int(microbatch_size),
        "rows": batch_rows("data", data),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    checkpoints = _Checkpoints(checkpoint_dir, checkpoint_every, settings, data)
    with checkpoints:
        run = checkpoints.latest(run, total, lambda: _state(second, params))
        bar = tqdm(total=total, initial=run.epoch, unit="epoch", disable=not progress)
        with bar:
            while run.epoch < total:
                if run.epoch == first_epochs:
                    run = run.switched(second)
                epoch = minibatches if run.epoch < first_epochs else full_batch
                run = run.trained(epoch, data, key, evaluate, best_by)
                checkpoints.save(run, last=run.epoch == total)
                bar.set_postfix(loss=f"{run.history[-1]['loss']:.3g}", refresh=False)
                bar.update()
    params, opt_state, best = run.carry
    return Trained(params, best, opt_state, run.history)


# Epochs ---------------------------------------------------------------------------


def _minibatch_epoch(
    loss_fn: Loss, tx: optax.GradientTransformation, batch_size: int
) -> TrainEpoch:
    """Every row once, in a new order; returns the mean loss as well."""
    train_step = make_train_step(loss_fn, tx)

    def epoch(carry: Carry, data: Data, key: jax.Array) -> tuple[Carry, jax.Array]:
        rows = batch_rows("data", data)
        order_key, whole_key, rest_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, rows)
        whole, rest = divmod(rows, batch_size)

        def step(
            carry: Carry, batch: tuple[jax.Array, jax.Array]
        ) -> tuple[Carry, jax.Array]:
            chosen, key = batch
            taken = jax.tree.map(lambda leaf: leaf[chosen], data)
            params, state, best = carry
            params, state, value = train_step(params, state, *taken, key=key)
            return (params, state, best), value

        batches = order[: rows - rest].reshape(whole, batch_size)
        keys = jax.random.split(whole_key, whole)
        carry, values = jax.lax.scan(step, carry, (batches, keys))
        total = jnp.sum(values) * batch_size
        if rest:
            carry, value = step(carry, (order[rows - rest :], rest_key))
            total = total + value * rest
        return carry, total / rows

    return jax.jit(epoch, donate_argnums=0)


def _full_batch_epoch(
    loss_fn: Loss,
    tx: optax.GradientTransformation,
    microbatch_size: int,
    keeps_best: bool,
) -> TrainEpoch:
    """One update by the gradient of all rows; returns the loss before it."""
    train_step = make_train_step(_whole_loss(loss_fn, microbatch_size), tx)

    def epoch(carry: Carry, data: Data, key: jax.Array) -> tuple[Carry, jax.Array]:
        params, state, best = carry
        stepped, state, value = train_step(params, state, data, key)
        if keeps_best:
            best = better(best, Best(params, value))
        return (stepped, state, best), value

    return jax.jit(epoch, donate_argnums=0)


def _whole_loss(loss_fn: Loss, microbatch_size: int) -> Callable[..., jax.Array]:
    """The loss on all rows, whose gradient JAX takes by microbatches."""

    def value_and_grad(params: optax.Params, data: Data, key: jax.Array) -> Any:
        bound = partial(loss_fn, key=key)
        return microbatched_value_and_grad(bound, microbatch_size)(params, *data)

    def value(params: optax.Params, data: Data, key: jax.Array) -> jax.Array:
        return value_and_grad(params, data, key)[0]

    def backward(grads: optax.Updates, cotangent: jax.Array) -> Any:
        scaled = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grads)
        return scaled, None, None

    # Not as a decorator: a type checker's import hook would wrap what it returns.
    loss = jax.custom_vjp(value)
    loss.defvjp(value_and_grad, backward)
    return loss


def _state(tx: optax.GradientTransformation, params: optax.Params) -> optax.OptState:
    """A first state that shares no memory with the params (that of L-BFGS would)."""
    return jax.tree.map(jnp.array, tx.init(params))


class _Run(NamedTuple):
    """Where a run stands after an epoch."""

    epoch: int
    carry: Carry
    history: list[Row]

    def switched(self, tx: optax.GradientTransformation) -> "_Run":
        """The same params, at the beginning of an optimizer's work."""
        params, _, best = self.carry
        return self._replace(carry=(params, _state(tx, params), best))

    def trained(
        self,
        train_epoch: TrainEpoch,
        data: Data,
        key: jax.Array,
        evaluate: Callable[[optax.Params], Mapping[str, Any]] | None,
        best_by: str | None,
    ) -> "_Run":
        """One epoch on."""
        number = self.epoch + 1
        started = time.perf_counter()
        carry, loss = train_epoch(self.carry, data, jax.random.fold_in(key, number))
        jax.block_until_ready(carry)
        row: Row = {"epoch": number, "loss": float(loss)}
        row["seconds"] = time.perf_counter() - started
        params, state, best = carry
        # Of copies, as the next epoch reuses the memory of the params.
        metrics = evaluate(jax.tree.map(jnp.copy, params)) if evaluate else {}
        for name, metric in metrics.items():
            if name in row:
                raise ValueError(
                    f"`evaluate` returned {name!r}, which the history has already; "
                    f"for example {{'test_{name}': ...}}."
                )
            row[name] = float(metric)
        if best_by is not None:
            if best_by not in row:
                raise ValueError(
                    f"`best_by` must be a number that `evaluate` returns, got "
                    f"{best_by!r}; there are {[*row]}."
                )
            value = jnp.asarray(row[best_by], best.value.dtype)
            best = better(best, Best(params, value))
        carry = params, state, best
        return self._replace(epoch=number, carry=carry, history=[*self.history, row])


# What a checkpoint is of ----------------------------------------------------------


class _Leaf(NamedTuple):
    """A leaf of a tree, as JSON can hold it.

    Attributes:
      dtype: its name.
      shape: as a list.
      option: which option of an optimizer decides the one or the other; "" if none.
      checksum: of its entries; "" if they don't count.
    """

    dtype: str
    shape: list[int]
    option: str
    checksum: str

    def __str__(self) -> str:
        checksum = f", checksum {self.checksum}" if self.checksum else ""
        return f"{self.dtype} of shape {tuple(self.shape)}{checksum}"


Trees = dict[str, dict[str, _Leaf]]

_OTHER = {
    "data": "other data",
    "params": "other params",
    "best": "other params",
    "opt_state": "another optimizer",
}

_RATES = {"log2_lr", "lr"}
"""What the states of this package call the rates, whose dtype is `state_dtype`."""

_MOST_BYTES = 2**26
"""The most that a checksum reads of an array."""


def _leaves(
    tree: Any, checksum: Callable[[jax.Array], str] | None = None
) -> dict[str, _Leaf]:
    """What the leaves of a tree are, by their paths."""
    found = {}
    for path, node in jax.tree.leaves_with_path(tree, is_leaf=_is_memory):
        option = ""
        if isinstance(node, SelfScaledState):
            option = "memory_size` and `matrix_size"
        elif _is_memory(node):
            option = "memory_size"
        elif _RATES & {getattr(key, "name", None) for key in path}:
            option = "state_dtype"
        for below, leaf in jax.tree.leaves_with_path(node):
            found[jax.tree_util.keystr((*path, *below))] = _Leaf(
                dtype=str(leaf.dtype),
                shape=list(leaf.shape),
                option=option,
                checksum=checksum(leaf) if checksum else "",
            )
    return found


def _is_memory(node: Any) -> bool:
    """Whether it is the state of a matrix, or L-BFGS's: ours, Optax's, another's."""
    return isinstance(node, SelfScaledState) or "BFGS" in type(node).__name__


def _carry_leaves(carry: Carry) -> Trees:
    params, opt_state, best = carry
    return {
        "params": _leaves(params),
        "best": _leaves(best),
        "opt_state": _leaves(opt_state),
    }


def _option_between(was: _Leaf | None, now: _Leaf | None) -> str:
    """The option that explains why a leaf is another; "" if there is none."""
    option = (was or now or _Leaf("", [], "", "")).option
    if option == "state_dtype" and not (was and now and was.shape == now.shape):
        return ""  # these are rates of something else
    return option


def _checksum(leaf: jax.Array) -> str:
    """Of all rows, or of a large array of some that lie evenly."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    stride = max(1, -(-leaf.nbytes // _MOST_BYTES))
    return f"{zlib.crc32(np.asarray(leaf[::stride]).tobytes()):08x}"


# Checkpoints ----------------------------------------------------------------------


class _Checkpoints:
    """The last checkpoint of a run, or nothing at all without a folder."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        every: int,
        settings: dict[str, Any],
        data: Data,
    ) -> None:
        self._folder, self._every, self._settings = folder, every, settings
        self._data = {} if folder is None else {"data": _leaves(data, _checksum)}
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "_Checkpoints":
        if self._folder is not None:
            self._manager = ocp.CheckpointManager(
                Path(self._folder).absolute(),
                # In the background it would read memory that the next epoch reuses.
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1,
                    save_interval_steps=self._every,
                    enable_async_checkpointing=False,
                ),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._manager is not None:
            self._manager.close()

    def save(self, run: _Run, *, last: bool) -> None:
        """Saves, where a checkpoint is due."""
        if self._manager is None:
            return
        log = {
            "settings": self._settings,
            "leaves": self._data | _carry_leaves(run.carry),
            "rows": run.history,
        }
        args = ocp.args.Composite(
            carry=ocp.args.StandardSave(run.carry), log=ocp.args.JsonSave(log)
        )
        self._manager.save(run.epoch, args=args, force=last)

    def latest(
        self, run: _Run, total: int, second_state: Callable[[], optax.OptState]
    ) -> _Run:
        """The run as it was last saved; `run` itself where nothing was."""
        epoch = self._manager.latest_step() if self._manager else None
        if self._manager is None or epoch is None:
            return run
        log = self._manager.restore(
            epoch, args=ocp.args.Composite(log=ocp.args.JsonRestore())
        )["log"]
        self._check(log["settings"], epoch, total)
        carry = run.carry
        if epoch > self._settings["first_epochs"]:
            carry = carry[0], second_state(), carry[2]
        # Orbax would make one dtype of another, in silence, and so of counts rates.
        self._check_leaves(log["leaves"], self._data | _carry_leaves(carry))
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, carry)
        restored = self._manager.restore(
            epoch, args=ocp.args.Composite(carry=ocp.args.StandardRestore(like))
        )
        return _Run(epoch, tuple(restored["carry"]), log["rows"])

    def _check(self, settings: dict[str, Any], epoch: int, total: int) -> None:
        other = [
            name for name in self._settings if settings[name] != self._settings[name]
        ]
        if other:
            differences = ", ".join(
                f"{name} was {settings[name]} and is {self._settings[name]}"
                for name in other
            )
            raise ValueError(
                f"`checkpoint_dir` holds a run with other settings: {differences}. "
                f"Pass {self._mend}"
            )
        if epoch > total:
            raise ValueError(
                f"`checkpoint_dir` holds a run of {epoch} epochs, longer than the "
                f"{total} asked for. Pass {self._mend}"
            )

    def _check_leaves(self, stored: dict[str, Any], given: Trees) -> None:
        for tree, now in given.items():
            was = {path: _Leaf(*leaf) for path, leaf in stored[tree].items()}
            pairs = {path: (was.get(path), now.get(path)) for path in now | was}
            others = {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
            if not others:
                continue
            # The first, but one that an option explains says more.
            path = max(others, key=lambda path: bool(_option_between(*others[path])))
            before, after = (leaf or "missing" for leaf in others[path])
            option = _option_between(*others[path])
            remedy = f"Give `{option}` as it was, pass" if option else "Pass"
            raise ValueError(
                f"`checkpoint_dir` holds a run with {_OTHER[tree]}: {tree}{path} was "
                f"{before}, and is {after}. {remedy} {self._mend}"
            )

    @property
    def _mend(self) -> str:
        return f"another `checkpoint_dir`, or delete {self._folder}."


# Checks ---------------------------------------------------------------------------


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        _checks.count(name, value, example=15)
        if value == 0 and not name.endswith("_epochs"):
            raise ValueError(
                f"`{name}` must be positive, got 0; for example {name}=64."
            )
