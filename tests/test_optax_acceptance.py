"""Optax's own acceptance suite for contributed optimizers, run on ours.

The cases are those of `optax.contrib._common_test`, which the wheel ships: the very
test functions and parameters, 30,000 steps and tolerances as they are. Only the
optimizer is ours. Of the suite's rows we take Sophia's, the one whose updates are given
the objective (as `obj_fn`), and hand it on to DSA as its `value_fn`. `auto_dsa` and
`adapt` need none, nor does a warm-up.
"""

import functools
import inspect
import unittest

import optax
import pytest
from optax.contrib import _common_test as suite

import dsa_optax

ROW = {
    "opt_name": "sophia",
    "opt_kwargs": {},
    "wrapper_name": None,
    "wrapper_kwargs": None,
}


@pytest.fixture(autouse=True, scope="module")
def strict_and_64_bit():
    """Not here: Optax's suite chooses its precision itself."""


def cases():
    """Every case of Sophia's: the undecorated test and its parameters."""
    for name, method in vars(suite.ContribTest).items():
        if name.startswith("test_"):
            arguments = inspect.getclosurevars(method).nonlocals["testcase_params"]
            if arguments["opt_name"] == "sophia":
                test = method.__wrapped__
                varied = {k: v for k, v in arguments.items() if k not in ROW}
                words = [getattr(value, "__name__", value) for value in varied.values()]
                case_name = "-".join([test.__name__, *map(str, words)])
                yield pytest.param(test, varied, id=case_name)


CASES = list(cases())


@functools.wraps(dsa_optax.dsa)  # the suite looks at its signature
def dsa(*args, **kwargs):
    tx = dsa_optax.dsa(*args, **kwargs)

    def update(updates, state, params=None, *, obj_fn, **extra_args):
        return tx.update(updates, state, params, value_fn=obj_fn, **extra_args)

    return tx._replace(update=update)


def adapt(init_log2_lr: float = -10.0, increase: float = 0.3):
    return dsa_optax.adapt(
        optax.sgd(1.0), "tensor", init_log2_lr=init_log2_lr, increase=increase
    )


def auto_dsa(state_dtype=None):  # the suite makes a tracer of every integer
    return dsa_optax.auto_dsa(5, state_dtype=state_dtype)


def adaptive_warmup(learning_rate: optax.ScalarOrSchedule = 0.1):
    return dsa_optax.adaptive_warmup(optax.adam(learning_rate), 100)


FACTORIES = [
    dsa,
    pytest.param(adaptive_warmup, marks=pytest.mark.slow),
    pytest.param(adapt, marks=pytest.mark.slow),
    pytest.param(auto_dsa, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "factory", FACTORIES, ids=["dsa", "adaptive_warmup", "adapt", "auto_dsa"]
)
@pytest.mark.parametrize(("test", "arguments"), CASES)
def test_of_optax(test, arguments, factory, monkeypatch):
    monkeypatch.setattr(suite, "_get_opt_factory", lambda opt_name: factory)
    try:
        test(suite.ContribTest(), **ROW | arguments)
    except unittest.SkipTest as reason:
        if factory is not dsa and "schedule" in test.__name__:
            pytest.skip("it takes no schedule: its rates adapt themselves")
        pytest.fail(f"Optax's suite skips it: {reason}")


def test_no_case_of_optax_is_missing():
    ran = {case.values[0].__name__ for case in CASES}
    assert ran >= {
        "test_optimizers_accept_extra_args",
        "test_optimizers",
        "test_optimizers_can_be_wrapped_in_inject_hyperparams",
        "test_preserve_dtype",
        "test_gradient_accumulation",
        "test_state_shape_dtype_shard_stability",
        "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such",
    }
