"""Arrows go one way: shared ← experiment ← page ← command ← the command line."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ("paper", "race", "cutest", "physics", "minibatches", "speed")


def imported(path):
    """The modules of `benchmarks` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("benchmarks"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_of(path):
    return path.relative_to(ROOT / "benchmarks").with_suffix("").parts


MODULES = sorted((ROOT / "benchmarks").rglob("*.py"))


def test_no_module_imports_what_stands_above_it():
    for path in MODULES:
        package, name = parts_of(path)[0], path.stem
        for module in imported(path):
            arrow = f"{'/'.join(parts_of(path))} imports {module}"
            _, room, *inner = module.split(".")
            if package == "shared":
                assert room == "shared", arrow
            elif package in EXPERIMENTS:
                assert room in (package, "shared"), arrow
            if name not in ("command", "__main__"):
                assert room == "shared" or "command" not in inner, arrow
            if not name.endswith(("page", "command", "__main__")):
                assert not any(part.endswith("page") for part in inner), arrow


def test_the_library_does_not_import_the_benchmarks():
    for path in (ROOT / "dsa_optax").rglob("*.py"):
        assert not list(imported(path))


def test_rooms_are_small():
    tops = [p for p in (ROOT / "benchmarks").iterdir() if p.suffix == ".py"]
    assert len(tops) + len(EXPERIMENTS) + 1 <= 9
    for folder in {path.parent for path in MODULES}:
        assert len(list(folder.glob("*.py"))) <= 15  # __init__.py among them
