"""The rules of the house: file length, no pickle, licence of nothing chosen by a string."""

import ast
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "autoseg").rglob("*.py"))
ALL_FILES = [*SOURCES, *(path for room in ("tests", "benchmarks") for path in sorted((ROOT / room).rglob("*.py")))]
MAX_LINES = 400


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in ALL_FILES}
    assert any(name.startswith("tests/") for name in lengths)
    long = {name: count for name, count in lengths.items() if count > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines, two rooms would be better: {long}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.isascii(), f"{path} holds characters that are not ASCII"
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what goes in and out"


FOREIGN = {
    # Reads what nnU-Net wrote, with torch's restricted reader and in a process of its own.
    "autoseg/interop/checkpoint_reader.py": 'torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)',
    # nnU-Net reads nothing else.
    "autoseg/interop/nnunet_export.py": "torch.save(content, path)",
    # The bundle specification asks for this file; it is written, never read.
    "autoseg/interop/monai_bundle.py": 'torch.save(dict(network.state_dict()), folder / "model.pt")',
}
"""File -> the one line in it that may touch another tool's pickles."""


def test_nothing_executes_data() -> None:
    forbidden = re.compile(
        r"\bpickle\b|torch\.load\(|torch\.save\(|allow_pickle=True|\beval\(|\bexec\(|pydoc\.locate|yaml\.load\("
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if forbidden.search(line.replace("network.eval(", "").replace("net.eval(", "").replace(".eval()", ""))
        and "No pickle" not in line
        and FOREIGN.get(str(path.relative_to(ROOT)), "-") not in line
    ]
    assert not found, "\n".join(found)


def test_nothing_is_there_for_tests_alone() -> None:
    """Every function, class and constant of a module is used by another line of the package, or named by a string."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}
    used = Counter[str]()
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used[node.id] += 1
        elif isinstance(node, ast.Attribute):
            used[node.attr] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used[node.value] += 1
    defined = []
    for path, node in ((path, node) for path, tree in trees.items() for node in tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.append((path, node.name))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined += [(path, target.id) for target in targets if isinstance(target, ast.Name)]
    assert len(defined) > 1000
    unused = [f"{path.relative_to(ROOT)}: {name}" for path, name in defined if not used[name] and name[:2] != "__"]
    assert not unused, f"used by nothing but tests, if at all: {unused}"


def test_the_drawing_names_every_room() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = {p.name for p in (ROOT / "autoseg").iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    assert rooms, "no packages found"
    assert not [room for room in rooms if f"{room}/" not in drawing]
    stages = {p.stem for p in (ROOT / "autoseg" / "pipeline").glob("*.py")} - {"__init__"}
    assert not [stage for stage in stages if stage not in drawing]


def test_stages_never_import_one_another() -> None:
    conductors = {"flow", "trainings", "showcase", "predict_and_score"}
    found = []
    for path in (ROOT / "autoseg" / "pipeline").glob("*.py"):
        if path.stem in conductors:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoseg.pipeline"):
                found.append(f"{path.name}:{node.lineno} imports {node.module}")
    assert not found, "\n".join(found)


def test_benchmarks_import_what_there_is() -> None:
    """Benchmarks run seldom, and import where they use: a name that was moved would break them unseen."""
    missing = []
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                there = _names_in(node.module, path.parent)
                missing += [
                    f"{path.name}:{node.lineno} {node.module}.{name.name}"
                    for name in node.names
                    if there is not None and name.name not in there
                ]
    assert not missing, "\n".join(missing)


def _names_in(module: str, folder: Path) -> set[str] | None:
    """What can be imported from a module of the package or a script in the folder; None for other modules."""
    if module.split(".")[0] == "autoseg":
        return {
            *dir(importlib.import_module(module)),
            *(p.stem for p in (ROOT / module.replace(".", "/")).glob("*.py")),
        }
    script = folder / f"{module}.py"
    if not script.is_file():
        return None
    names = set()
    for node in ast.parse(script.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
