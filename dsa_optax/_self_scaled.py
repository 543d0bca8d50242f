"""The direction of self-scaled Broyden matrices, whose step somebody else finds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsa_optax._neurons import Blocks
from dsa_optax._packed import Packed
from dsa_optax._step_back import Verdict
from dsa_optax._trees import widest_of


class SelfScaledState(NamedTuple):
    """State of `self_scaled_direction`, for n parameters in their own units.

    They are cut into B blocks of m entries: one of all n where these are few.

    Attributes:
      grads: the gradient of the last update, shape (B, m).
      inverse: H, the estimate of the inverse Hessian, shape (B, m, m).
      product: H times the gradient, shape (B, m).
      sound: whether that led downhill, shape (B,). If not, H begins again; so at the
        start.
      taught: whether H has learnt from a step since it began, shape (B,).
    """

    grads: jax.Array
    inverse: jax.Array
    product: jax.Array
    sound: jax.Array
    taught: jax.Array


FEW = 10
"""Up to so many parameters nothing makes H shorter but pairs, one by one."""

LEAST_SCALE = 0.25
"""To no less than so much, where there are several tensors."""


def self_scaled_direction(
    block_size: int,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns a gradient g into −Hg, with H of the self-scaled Broyden family.

    With a step s, g at its start, y the change of the gradient over it,
    :math:`h = y^\top H y / y^\top s`, and

    .. math::
      b = \max\left(\frac{(s^\top g)^2}{y^\top s \; g^\top H g},\; \frac1h\right),
      \quad a = bh - 1, \quad \rho = \min(1, h (1 - \sqrt{a / (1 + a)})),

    .. math::
      \theta &= \max\left(\frac{\rho - 1}{a},\;
        \min\left(\frac1\rho, \frac{1 - b}{b}\right)\right), \quad
        \sigma = 1 + \theta a, \quad \varphi = (1 - \theta) / \sigma, \\
      \tau &= \min(1, 1/b) \, \sigma^{1 / (1 - n)}, \text{ but at most } \sigma
        \text{ where } \theta \le 0, \text{ and } \min(1, 1/b) / \theta \text{ else}, \\
      v &= s / y^\top s - Hy / y^\top H y, \\
      H' &= \frac1\tau \left(H - \frac{Hy\, y^\top H}{y^\top H y}
        + \varphi \, y^\top H y \, v v^\top\right) + \frac{s s^\top}{y^\top s}.

    θ = 0 is BFGS, θ = 1 is DFP, which shortens what H has too long. In the papers b is
    :math:`s^\top B s / y^\top s`, B the inverse of H. That is known where a line search
    along −Hg has found s. b here is the same then; for any other step, such as the sum
    of three directions, it is as much as Cauchy and Schwarz allow to say: b is at least
    this.

    All of it is in units of the size that each tensor began with. H begins as the
    identity, or as more of it where the gradient is so small (a loss in other units)
    that Hg would be shorter than 1. The first pair scales it by 1/h, with several
    tensors to a quarter at the least: the steepest of them speaks in the pair, and
    their sizes are units already. Up to 10 parameters the first pair does not scale it
    down, and θ is 0 at the most: what H overestimates one step tells, and there are few
    to tell.

    Of more parameters than `block_size` H is a matrix for each of several blocks of
    neighbours (see `_neurons`), which learn for themselves. Without a clearly
    positive curvature H stays; where rounding spoils the direction, that is zero, and
    H begins again. So the direction wants a bound on its length.

    Args:
      block_size: the most parameters of one matrix, at least 1.

    Returns:
      A transformation of packed trees, below `stepping_back`: where the last step is
      taken back its state stays as it is. (To choose between two matrices would cost a
      copy.) A step reads H twice and writes it once.

    References:
      Al-Baali, `Numerical experience with a class of self-scaling quasi-Newton
      algorithms <https://doi.org/10.1023/A:1022608410710>`_, 1998; Urbán, Stefanou and
      Pons, `Unveiling the optimization process of physics informed neural networks
      <https://arxiv.org/abs/2405.04230>`_, 2025; Kiyani et al., `Optimizing the
      optimizer for physics-informed neural networks
      <https://arxiv.org/abs/2501.16371>`_, 2025
    """

    def init(params: Packed) -> SelfScaledState:
        blocks = Blocks.of(params.layout, block_size)
        count, width = blocks.shape
        zeros = blocks.cut(jnp.zeros_like(_flat(params)))
        return SelfScaledState(
            grads=zeros,
            inverse=jnp.zeros((count, width, width), zeros.dtype),
            product=jnp.zeros_like(zeros),
            sound=jnp.zeros(count, bool),
            taught=jnp.zeros(count, bool),
        )

    def update(
        updates: Packed,
        state: SelfScaledState,
        params: Packed,
        *,
        verdict: Verdict,
        **extra: Any,
    ) -> tuple[Packed, SelfScaledState]:
        del params, extra
        layout = updates.layout
        blocks = Blocks.of(layout, block_size)
        sizes = layout.of_leaves(verdict.sizes)
        sizes = jax.tree.map(lambda s, u: jnp.broadcast_to(s, u.shape), sizes, updates)
        units = _flat(sizes).astype(state.grads.dtype)
        step = blocks.cut(_flat(verdict.moved) / units)
        grads = blocks.cut(_flat(updates) * units)
        least = LEAST_SCALE if len(layout.sizes()) > 1 else 0.0
        state = _learnt(step, grads, state, verdict.back, least)
        direction = jnp.where(state.sound[:, None], -state.product, 0)
        return _like(blocks.joined(direction) * units, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _learnt(
    step: jax.Array,
    grads: jax.Array,
    state: SelfScaledState,
    hold: jax.Array,
    least: float,
) -> SelfScaledState:
    """The state with H for the last step, if that is of use, and Hg.

    Args:
      step: s, a block to a row, as all that follow.
      grads: g at its end.
      state: with g at its start.
      hold: whether nothing is to be learnt.
      least: to what the first pair scales H down, where there are many parameters.
    """
    turn = grads - state.grads
    norm = jnp.linalg.norm(grads)
    begun = jnp.maximum(1, 1 / jnp.where(norm > 0, norm, 1))
    kept = jnp.einsum("bij,bj->bi", state.inverse, grads, precision="highest")
    sound = state.sound[:, None]
    product = jnp.where(sound, kept, begun * grads)
    before = jnp.where(sound, state.product, begun * state.grads)
    turned = product - before  # Hy
    pair = _Pair.of(step, turn, turned, state.grads, before)
    size = grads.shape[1]
    first = ~state.taught & pair.useful
    growth = jnp.where(first, jnp.maximum(1 / pair.h, 1.0 if size <= FEW else least), 1)
    grown = pair._replace(h=growth * pair.h, b=pair.b / growth)
    change = _changed(grown, first, size)

    across = jnp.stack([step, growth[:, None] * turned], axis=1)
    across = jnp.where(pair.useful[:, None, None], across, 0)
    left = jnp.einsum("bij,bjk->bik", change.inner, across)
    scale = growth * change.scale
    product = scale[:, None] * product
    along = jnp.einsum("bjk,bk->bj", across, grads, precision="highest")
    product = product + jnp.einsum("bj,bjk->bk", along, left)
    slope = jnp.sum(product * grads, axis=1)
    length = jnp.linalg.norm(product, axis=1)
    nowhere = jnp.linalg.norm(grads, axis=1) == 0
    fine = ((slope > 0) | nowhere) & jnp.isfinite(length)
    after = SelfScaledState(
        grads=grads,
        inverse=_moved(
            state.inverse,
            jnp.where(hold, 1, jnp.where(state.sound, scale, 0)),
            jnp.where(hold | state.sound, 0, begun * scale),
            jnp.where(hold, 0, left),
            across,
        ),
        product=product,
        sound=fine,
        taught=fine & (state.taught | pair.useful),
    )
    held = {
        name: jnp.where(hold, getattr(state, name), getattr(after, name))
        for name in ("grads", "product", "sound", "taught")
    }
    return after._replace(**held)


def _moved(
    inverse: jax.Array,
    scale: jax.Array,
    identity: jax.Array,
    left: jax.Array,
    right: jax.Array,
) -> jax.Array:
    """scale · H + identity · I + leftᵀ right, of each block: one pass, in place."""
    scale, identity = scale[:, None, None], identity[:, None, None]
    # What begins again may be anything, and zero times that no number.
    inverse = jnp.where(scale == 0, 0, scale * inverse)
    for i in range(2):
        inverse = inverse + left[:, i, :, None] * right[:, i, None, :]
    width = inverse.shape[1]
    row, column = (
        jax.lax.broadcasted_iota(jnp.int32, (1, width, width), axis) for axis in (1, 2)
    )
    return inverse + jnp.where(row == column, identity, 0)


class _Pair(NamedTuple):
    """What a step says of H, a value a block; of no use are b = h = 1.

    Attributes:
      useful: whether its curvature is clearly positive.
      curvature: y's.
      h: y'Hy / y's.
      b: the least that s'Bs / y's can be.
    """

    useful: jax.Array
    curvature: jax.Array
    h: jax.Array
    b: jax.Array

    @classmethod
    def of(
        cls,
        step: jax.Array,
        turn: jax.Array,
        turned: jax.Array,
        grads: jax.Array,
        product: jax.Array,
    ) -> "_Pair":
        """Of s, y, Hy, and g and Hg at the start of s."""

        def dot(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.sum(x * y, axis=1)

        curvature, expected = dot(step, turn), dot(turn, turned)
        promised = dot(grads, product)
        norms = jnp.linalg.norm(step, axis=1) * jnp.linalg.norm(turn, axis=1)
        useful = curvature > jnp.finfo(norms.dtype).eps * norms
        useful = useful & (expected > 0) & jnp.isfinite(expected)
        curvature = jnp.where(useful, curvature, 1)
        h = jnp.where(useful, expected / curvature, 1)
        slope = dot(step, grads)
        b = (slope / curvature) * (slope / jnp.where(promised > 0, promised, 1))
        known = useful & (promised > 0) & jnp.isfinite(b)
        return cls(useful, curvature, h, jnp.where(known, jnp.maximum(b, 1 / h), 1 / h))


class _Change(NamedTuple):
    """H' = scale · H + (s Hy) inner (s Hy)ᵀ, a value a block."""

    scale: jax.Array
    inner: jax.Array


def _changed(pair: _Pair, first: jax.Array, size: int) -> _Change:
    """What the pair makes of H, which was scaled before for the first of them."""
    curvature, h, b = pair.curvature, pair.h, pair.b
    eps = jnp.finfo(h.dtype).eps
    a = jnp.maximum(b * h - 1, eps)
    rho = jnp.minimum(1, h * (1 - jnp.sqrt(a / (1 + a))))
    theta = jnp.maximum((rho - 1) / a, jnp.minimum(1 / rho, (1 - b) / b))
    theta = jnp.minimum(theta, 0) if size <= FEW else theta
    sigma = 1 + theta * a
    power = sigma ** (1 / (1 - max(size, 2)))
    most = jnp.minimum(1, 1 / b)
    tau = jnp.where(
        theta <= 0,
        jnp.minimum(most * power, sigma),
        most * jnp.minimum(power, 1 / jnp.where(theta > 0, theta, 1)),
    )
    # The first pair has scaled H already.
    theta, sigma, tau = (
        jnp.where(first, x, y) for x, y in ((0, theta), (1, sigma), (1, tau))
    )
    phi = (1 - theta) / sigma
    ss = (phi * h / tau + 1) / curvature
    sy = -phi / (tau * curvature)
    yy = (phi - 1) / (tau * h * curvature)
    inner = jnp.stack([jnp.stack([ss, sy], -1), jnp.stack([sy, yy], -1)], -1)
    return _Change(jnp.where(pair.useful, 1 / tau, 1), inner)


def _flat(tree: Any) -> jax.Array:
    """All leaves in one vector, in their widest dtype, float32 at least."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = widest_of(leaves)
    return jnp.concatenate(
        [jnp.zeros(0, dtype), *(leaf.ravel().astype(dtype) for leaf in leaves)]
    )


def _like(flat: jax.Array, tree: Any) -> Any:
    """The vector as leaves of these shapes and dtypes, of which none overflows."""
    leaves, structure = jax.tree.flatten(tree)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + jnp.size(leaf))

    def part(leaf: jax.Array, begin: int, end: int) -> jax.Array:
        most = float(min(jnp.finfo(leaf.dtype).max, jnp.finfo(flat.dtype).max))
        cut = jnp.clip(flat[begin:end], -most, most)
        return cut.reshape(jnp.shape(leaf)).astype(leaf.dtype)

    parts = map(part, leaves, ends[:-1], ends[1:])
    return jax.tree.unflatten(structure, parts)
