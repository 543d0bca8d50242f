"""What the README says can be pasted."""

import re
from pathlib import Path

import jax

import dsa_optax

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_and_train(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 8  # of the last two the definitions run, in test_flax all
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for block in blocks[:3]:
            exec(block, namespace)
        data = namespace["x"], namespace["y"]
        assert namespace["loss"](namespace["params"], *data) < 1e-6
        for block in blocks[3:]:
            exec(block, namespace)
    printed = capsys.readouterr().out
    assert "'w': Array(" in printed
    assert "{'epoch': 30, 'loss': " in printed


def test_table_of_names_is_complete():
    named = set(re.findall(r"`(\w+)`", README.split("## Names")[1].split("Every")[0]))
    assert set(dsa_optax.__all__) <= named


def test_links_point_at_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (Path(__file__).parents[1] / target).exists(), target
