"""Optax's own acceptance suite for contributed optimizers, run on `dsa`.

The cases are those of `optax.contrib._common_test`, which the wheel ships: the very
test functions and parameters, 30,000 steps and tolerances as they are. Only the
optimizer is ours. Of the suite's rows we take Sophia's, the one whose updates are given
the objective (as `obj_fn`), and hand it on to DSA as its `value_fn`.
"""

import functools
import inspect
import unittest

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


@pytest.mark.parametrize(("test", "arguments"), CASES)
def test_of_optax(test, arguments, monkeypatch):
    monkeypatch.setattr(suite, "_get_opt_factory", lambda opt_name: dsa)
    try:
        test(suite.ContribTest(), **ROW | arguments)
    except unittest.SkipTest as reason:
        pytest.fail(f"Optax's suite skips dsa: {reason}")


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
