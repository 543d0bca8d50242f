"""What is a matrix to Muon's direction: convolutions' kernels by the tree alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import dsa_optax
from dsa_optax import matrices

Numbers = optax.contrib.MuonDimensionNumbers

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def kinds(params):
    """What each leaf is, by its path."""
    numbers = matrices(params)
    is_leaf = lambda node: node is None or isinstance(node, Numbers)
    leaves = jax.tree.leaves_with_path(numbers, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path): kind for path, kind in leaves}


class Linen(linen.Module):
    """A layer of each kind."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.Conv(4, (3, 3), feature_group_count=4)(x)
        x = linen.ConvTranspose(2, (3, 3))(x)
        x = linen.Conv(3, (5,))(x.reshape(2, -1, 2))
        x = linen.MultiHeadDotProductAttention(2, qkv_features=4)(x)
        return linen.Dense(3)(linen.LayerNorm()(x))


def test_linen():
    params = Linen().init(jax.random.key(0), jnp.ones((2, 8, 8, 1)))["params"]
    found = kinds(params)
    plane, line = Numbers((0, 1, 2), 3), Numbers((0, 1), 2)
    for layer in ("Conv_0", "Conv_1", "ConvTranspose_0"):
        assert found[f"['{layer}']['kernel']"] == plane
    assert found["['Conv_2']['kernel']"] == line
    assert found["['Dense_0']['kernel']"] == Numbers()
    others = {path for path, kind in found.items() if kind is None}
    heads = {
        f"['MultiHeadDotProductAttention_0']['{name}']['kernel']"
        for name in ("query", "key", "value", "out")
    }
    assert heads < others
    assert not any(
        "bias" in path and found[path] for path in found if "Multi" not in path
    )


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(4, 2, (3, 3, 3), rngs=rngs)
        self.words = nnx.Embed(7, 5, rngs=rngs)


@pytest.mark.parametrize("pure", [False, True])
def test_nnx(pure):
    state = nnx.state(NNX(nnx.Rngs(0)), nnx.Param)
    found = kinds(nnx.to_pure_dict(state) if pure else state)
    told = {path: kind for path, kind in found.items() if kind is not None}
    assert sorted(map(str, told.values())) == sorted(
        map(str, [Numbers((0, 1, 2), 3), Numbers((0, 1, 2, 3), 4), Numbers()])
    )


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"kernel": jnp.ones((3, 3, 2, 4))}, Numbers((0, 1, 2), 3)),
        ({"layers": {"kernel": jnp.ones((12, 8, 8))}}, None),  # stacked for a scan
        ({"query": {"kernel": jnp.ones((12, 64, 4, 16))}}, None),  # stacked heads
        ({"weight": jnp.ones((4, 2, 3, 3))}, None),  # another order of the axes
        ({"conv": {"kernel": jnp.ones((3, 0, 2))}}, None),
        ([jnp.ones((2, 3))], Numbers()),
        (jnp.ones(3), None),
    ],
)
def test_what_the_tree_tells(params, kind):
    assert list(kinds(params).values()) == [kind]


def test_optax_takes_it():
    """As a function: the kernel is orthogonal to itself as a matrix."""
    params = {"conv": {"kernel": jax.random.normal(jax.random.key(0), (2, 2, 3, 5))}}
    tx = optax.contrib.muon(1.0, muon_weight_dimension_numbers=matrices)
    updates, _ = tx.update(params, tx.init(params), params)
    singular = jnp.linalg.svd(updates["conv"]["kernel"].reshape(12, 5))[1]
    assert np.all((singular > 0.5) & (singular < 1.5))


def loss(params):
    return sum(jnp.sum((leaf - 1) ** 4) for leaf in jax.tree.leaves(params))


def losses(tx, params):
    state = tx.init(params)
    step = dsa_optax.make_train_step(loss, tx, donate=False)
    seen = []
    for _ in range(5):
        params, state, value = step(params, state)
        seen.append(value)
    return np.array(seen)


def test_auto_dsa_flattens_kernels_by_itself():
    kernel = jax.random.normal(jax.random.key(1), (2, 2, 3, 5))
    whole, flat = {"kernel": kernel}, {"kernel": kernel.reshape(12, 5)}
    by_default = losses(dsa_optax.auto_dsa(0), whole)
    np.testing.assert_allclose(
        by_default, losses(dsa_optax.auto_dsa(0), flat), rtol=1e-5
    )
    as_optax = dsa_optax.auto_dsa(0, muon_weight_dimension_numbers=None)
    assert not np.allclose(by_default, losses(as_optax, whole), rtol=1e-3)
    np.testing.assert_allclose(losses(as_optax, flat), by_default, rtol=1e-5)
