"""SOAP against the authors' code, stated in NumPy for one matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.shared.optimizers.soap import soap


def authors(grads, lr=3e-3, b1=0.95, b2=0.95, eps=1e-8, frequency=10):
    """The updates; the mean gradient is kept in the bases, and turned with them."""
    first, *others = grads
    left, right = (1 - b2) * first @ first.T, (1 - b2) * first.T @ first
    q_left, q_right = (np.linalg.eigh(m)[1][:, ::-1] for m in (left, right))
    mean, squares, updates = 0 * first, 0 * first, [0 * first]
    for step, grad in enumerate(others, start=1):
        turned = q_left.T @ grad @ q_right
        mean = b1 * mean + (1 - b1) * turned
        squares = b2 * squares + (1 - b2) * turned**2
        size = lr * np.sqrt(1 - b2**step) / (1 - b1**step)
        direction = mean / (np.sqrt(squares) + eps)
        updates.append(-size * q_left @ direction @ q_right.T)
        back = q_left @ mean @ q_right.T
        left = b2 * left + (1 - b2) * grad @ grad.T
        right = b2 * right + (1 - b2) * grad.T @ grad
        if step % frequency == 0:
            rows = np.argsort(-np.diag(q_left.T @ left @ q_left))
            columns = np.argsort(-np.diag(q_right.T @ right @ q_right))
            squares = squares[rows][:, columns]
            q_left = np.linalg.qr(left @ q_left[:, rows])[0]
            q_right = np.linalg.qr(right @ q_right[:, columns])[0]
        mean = q_left.T @ back @ q_right
    return np.array(updates)


def updates_for(tx, grads):
    def step(state, grad):
        updates, state = tx.update(grad, state)
        return state, updates

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda g: g[0], grads)), grads)[1]


def test_a_matrix_goes_as_by_the_authors_code():
    """Square, as what has no rank leaves the first bases open."""
    random = np.random.default_rng(0)
    scales = np.logspace(-2, 1, 4)
    grads = scales[:, None] * random.normal(size=(26, 4, 4)) + random.normal(size=4)
    expected = authors(grads)
    updates = updates_for(soap(), jnp.asarray(grads))
    assert updates.dtype == jnp.float64
    np.testing.assert_allclose(updates, expected, rtol=1e-6, atol=1e-12)


def test_vectors_and_numbers_go_by_adam_from_the_second_gradient_on():
    random = np.random.default_rng(1)
    grads = {"b": jnp.asarray(random.normal(size=(12, 3))), "c": jnp.ones(12)}
    updates = updates_for(soap(0.1, b1=0.9), grads)
    later = jax.tree.map(lambda g: g[1:], grads)
    with jax.numpy_dtype_promotion("standard"):
        expected = updates_for(optax.adam(0.1, b2=0.95), later)
    for name in grads:
        assert not updates[name][0].any()
        np.testing.assert_allclose(updates[name][1:], expected[name], rtol=1e-6)


def test_every_dimension_of_a_kernel_has_a_basis():
    grads = jax.random.normal(jax.random.key(0), (12, 3, 2, 4))
    tx = soap(precondition_frequency=2)
    state = tx.init(grads[0])
    for grad in grads:
        updates, state = jax.jit(tx.update)(grad, state)
    kept = state[0].tensors
    assert updates.shape == kept.squares.shape == (3, 2, 4)
    assert [basis.shape for basis in kept.bases] == [(3, 3), (2, 2), (4, 4)]
    for basis in kept.bases:
        np.testing.assert_allclose(basis.T @ basis, jnp.eye(len(basis)), atol=1e-12)
