"""Imports go down only. The list, read from its top, is also the reading order."""

import ast
from pathlib import Path

import pytest

import ntk_fed

PACKAGE = Path(ntk_fed.__file__).parent
FLOORS = [
    ["errors"],
    [
        *("names", "measured", "seeds", "params", "inputs", "blas", "records"),
        *("executor", "subsample"),
    ],
    ["data", "models", "spectrum", "limits", "scaling"],
    ["jacobians", "activations", "derivatives", "curvature", "smoothness", "features"],
    ["kernel", "fedavg"],
    ["drift", "divergence", "samplegradients", "fedkernel"],
    ["theory"],
    ["observers", "runfolder", "simulate", "start", "checks"],
    ["studies"],
    ["report"],
    ["analysis", "terminal", "cli"],
    ["__init__"],
]  # ground floor first
# On one floor a module may import those named before it, so that there is no circle.
ORDER = {name: (i, j) for i, names in enumerate(FLOORS) for j, name in enumerate(names)}
FILES = sorted(PACKAGE.rglob("*.py"))


def place(path):
    """The name in FLOORS that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else path.stem


def imports_of(source):
    """Names in FLOORS that ``source`` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, *rest = name.split(".")
            if head == "ntk_fed":
                yield rest[0] if rest and rest[0] in ORDER else "__init__"
            elif head == "":
                yield "a relative import"


def test_every_module_has_a_floor():
    found = {place(path) for path in FILES}
    assert found == set(ORDER), f"give these a floor: {found ^ set(ORDER)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = place(path)
    for target in imports_of(path.read_text()):
        if target == own and path.parent != PACKAGE:
            continue  # modules of one folder may import each other
        assert ORDER.get(target, (99, 0)) < ORDER[own], (
            f"{path.name} imports {target}, which is not below {own}"
        )


@pytest.mark.parametrize(
    "line", ["from ntk_fed import gram", "import ntk_fed", "from . import kernel"]
)
def test_the_check_sees_every_way_up(line):
    assert [*imports_of(line)] in (["__init__"], ["a relative import"])


@pytest.mark.parametrize("path", sorted((PACKAGE / "report").glob("*.py")))
def test_the_report_imports_no_torch(path):
    tree = ast.parse(path.read_text())
    names = [
        a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    ]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_shape_checker_is_not_blinded_and_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__"
        if isinstance(node, ast.Import):
            # Between our own processes, never from a file.
            allowed = path.parent.name == "executor"
            assert allowed or "pickle" not in [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")
