"""What the README says can be pasted, and is short."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_and_train(capsys):
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(block, namespace)
            loss, x, y = (namespace[name] for name in ("loss", "x", "y"))
            params = namespace.pop("params", namespace["fit"].params)
            assert loss(params, x, y) < 1e-6
    printed = capsys.readouterr().out
    assert "Converged" in printed or "No further progress" in printed
    assert "'w': Array(" in printed


def test_a_newcomer_can_read_it_at_a_sitting():
    assert len(README.splitlines()) <= 130
