"""Blocks of neurons: whose entries are neighbours, on trees of all kinds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsa_optax._neurons import Blocks, by_neuron
from dsa_optax._packed import layout_of


def laid(tree):
    """The entries of a tree by neuron."""
    layout = layout_of(tree)
    flat = np.concatenate([x.ravel() for x in jax.tree.leaves(layout.pack(tree))])
    return flat[by_neuron(layout)]


def numbered(tree):
    """The tree with entries of its own numbers."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([0, *(np.size(leaf) for leaf in leaves)])
    return jax.tree.unflatten(
        structure,
        [
            jnp.arange(a, b, dtype=jnp.float32).reshape(np.shape(leaf))
            for a, b, leaf in zip(ends[:-1], ends[1:], leaves, strict=True)
        ],
    )


def test_a_column_of_the_kernel_has_its_bias_behind_it():
    layers = [
        {"w": jnp.array([[1.0, 2, 3], [4, 5, 6]]), "b": jnp.array([10.0, 20, 30])},
        {"w": jnp.array([[7.0], [8], [9]]), "b": jnp.array([70.0])},
    ]
    np.testing.assert_array_equal(
        laid(layers), [1, 4, 10, 2, 5, 20, 3, 6, 30, 7, 8, 9, 70]
    )


def test_equinox_has_its_outputs_first():
    net = eqx.filter(eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0)), eqx.is_array)
    net = numbered(net)
    hidden = net.layers[0]
    expected = np.concatenate([[*hidden.weight[i], hidden.bias[i]] for i in range(2)])
    np.testing.assert_array_equal(laid(net)[:6], expected)


def test_heads_of_attention_and_channels_of_convolutions():
    net = numbered(
        {
            "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
            "query": {"kernel": jnp.ones((5, 2, 3)), "bias": jnp.ones((2, 3))},
        }
    )
    found, conv, query = laid(net), net["conv"], net["query"]
    first = [*conv["kernel"][..., 0].ravel(), conv["bias"][0]]
    np.testing.assert_array_equal(found[:19], first)
    second = [*query["kernel"][:, 0, 1], query["bias"][0, 1]]
    np.testing.assert_array_equal(found[76 + 6 : 76 + 12], second)


TREES = {
    "no net": {"a": jnp.ones(3), "b": jnp.ones((2, 2)), "c": jnp.ones(())},
    "one vector": jnp.ones(11),
    "a matrix": jnp.ones((3, 4)),
    "siblings": {"w1": jnp.ones((2, 3)), "b1": jnp.ones(3), "w2": jnp.ones((3, 1))},
    "pairs": [(jnp.ones((2, 3)), jnp.ones(3)), (jnp.ones((3, 1)), jnp.ones(1))],
    "large leaves": {
        "x": {"kernel": jnp.ones((200, 100)), "bias": jnp.ones(100)},
        "y": {"kernel": jnp.ones((200, 100)), "bias": jnp.ones(100)},
    },
    "several dtypes": {
        "kernel": jnp.ones((3, 4), jnp.bfloat16),
        "bias": jnp.ones(4, jnp.float32),
    },
    "empty": {"kernel": jnp.ones((0, 4)), "bias": jnp.ones(4)},
    "nothing": {},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_entry_is_there_once(tree):
    layout = layout_of(tree)
    count = int(layout.sizes().sum())
    np.testing.assert_array_equal(np.sort(by_neuron(layout)), np.arange(count))


@pytest.mark.parametrize("most", [1, 4, 5, 7, 100])
@pytest.mark.parametrize("name", ["one vector", "pairs", "nothing"])
def test_blocks_are_cut_and_joined(name, most):
    layout = layout_of(TREES[name])
    count = int(layout.sizes().sum())
    blocks = Blocks.of(layout, most)
    number, width = blocks.shape
    assert width <= most
    assert number == max(-(-count // most), 1)
    vector = jnp.arange(1.0, count + 1)
    cut = blocks.cut(vector)
    assert cut.shape == blocks.shape
    np.testing.assert_array_equal(np.sort(cut.ravel())[cut.size - count :], vector)
    np.testing.assert_array_equal(blocks.joined(cut), vector)
