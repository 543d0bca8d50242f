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
            loss, params = namespace["loss"], namespace["params"]
            data = (namespace["x"], namespace["y"]) if block is blocks[1] else ()
            assert loss(params, *data) < 1e-6
    assert "'w': Array(" in capsys.readouterr().out


def test_a_newcomer_can_read_it_at_a_sitting():
    assert len(README.splitlines()) <= 220
