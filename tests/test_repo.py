"""Laws of the repository itself: import direction, lightness, and that what the README says is there."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from places import ROOT

import cotlens

# A file imports its own package and those before it. `__init__.py` and `cli/` of cotlens look everywhere.
ORDER = (
    "display", "trace", "shown", "cells", "footer", "decoded", "files", "stats", "detect", "text", "formats", "measures", "models", "judges", "probes", "runs",
    "studies", "plots", "view", "describe",
)  # fmt: skip
FREE = ("__init__", "cli")
TORCH = (
    "models",
    "judges.local",
    "probes.hidden",
)  # where torch may be imported, at the top or later


def module_of(path):
    """The dotted name of a file within cotlens; a package has that of its folder."""
    parts = path.relative_to(ROOT / "cotlens").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in sorted((ROOT / "cotlens").rglob("*.py"))}


def is_module(name):
    return name in MODULES


def own_imports(tree, module):
    """The modules of cotlens that a file imports, in any form and at any depth.

    >>> sorted(own_imports(ast.parse("from cotlens import stats, Trace"), "x"))
    ['stats', 'trace']
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name_after_cotlens(alias.name) for alias in node.names if is_own(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            if node.module and is_own(node.module):
                home = name_after_cotlens(node.module)
                for alias in node.names:
                    inner = f"{home}.{alias.name}" if home != "__init__" else alias.name
                    found.add(inner if is_module(inner) else public_home(home, alias.name))
    return found


def is_own(name):
    return name == "cotlens" or name.startswith("cotlens.")


def name_after_cotlens(name):
    return name.removeprefix("cotlens").removeprefix(".") or "__init__"


def public_home(home, name):
    """Where a name of the top level really comes from; elsewhere the module itself."""
    return cotlens._NAMES.get(name, home) if home == "__init__" else home


IMPORTS = {
    module: own_imports(ast.parse(path.read_text(encoding="utf-8")), module)
    for module, path in MODULES.items()
}


def package_of(module):
    return module.partition(".")[0]


def test_the_order_is_of_the_packages_that_there_are():
    assert {package_of(module) for module in MODULES} == {*ORDER, *FREE}


@pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) not in FREE])
def test_a_file_imports_its_own_package_and_those_before_it(module):
    place = ORDER.index(package_of(module))
    for imported in IMPORTS[module]:
        assert imported not in FREE, f"{module} imports {imported}"
        assert ORDER.index(package_of(imported)) <= place, f"{module} imports {imported}"


@pytest.mark.parametrize("package", ORDER)
def test_there_is_no_circle_inside_a_package(package):
    """Also not through the package itself, whose `__init__` imports its files."""
    graph = {
        module: {imported for imported in IMPORTS[module] if package_of(imported) == package}
        for module in MODULES
        if package_of(module) == package
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_walker_sees_every_form_of_import():
    """A late import, a module of a package, a public name, a plain import: stats, text.split, trace, runs.run."""
    code = """
import cotlens.runs.run
from cotlens import TraceError, stats
def late():
    from cotlens.text import split
    from cotlens.text.split import Split
"""
    assert own_imports(ast.parse(code), "x") == {"runs.run", "trace", "stats", "text.split"}


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_where_models_are(module):
    if module.startswith(TORCH):
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.partition(".")[0] == "torch" for name in names), module


def test_import_loads_no_heavy_package():
    """`import cotlens` loads neither torch nor pandas nor matplotlib; every public name is there when asked for."""
    script = (
        "import sys; import cotlens;"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'pyarrow', 'scipy'};"
        "assert not heavy & set(sys.modules);"
        "light = [name for name in cotlens.__all__ if not cotlens._NAMES.get(name, '').startswith('models')];"
        "[getattr(cotlens, name) for name in light if name != 'probes'];"
        "assert 'torch' not in sys.modules;"
        "[getattr(cotlens, name) for name in cotlens.__all__]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_public_names_are_few_and_documented():
    assert len(cotlens.__all__) <= 40
    assert set(cotlens.__all__) <= set(dir(cotlens))
    for name in cotlens.__all__:
        assert getattr(cotlens, name).__doc__, name
    for package in cotlens._PACKAGES:
        module = importlib.import_module(f"cotlens.{package}")
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_tree_shows_every_package_and_each_package_its_files():
    """docs/tree.md has a line a package; a package's docstring lists its files in reading order."""
    tree = (ROOT / "docs" / "tree.md").read_text(encoding="utf-8")
    for module, path in MODULES.items():
        package = package_of(module)
        if package in FREE:
            continue
        assert re.search(rf"^  {package}(/|\.py)? ", tree, re.MULTILINE), package
        if "." in module:
            listing = ast.get_docstring(
                ast.parse((path.parent / "__init__.py").read_text(encoding="utf-8"))
            )
            assert re.search(rf"\b{path.stem}\b", listing or ""), module


@pytest.mark.parametrize(
    "page", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
)
def test_code_in_the_pages_runs(page, tmp_path, monkeypatch):
    """The Python blocks of a page, one after the other, from the root of the repository."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL
    )
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for block in blocks:
        exec(compile(block.replace('"runs/', f'"{tmp_path}/'), page, "exec"), names)


def test_the_first_page_is_short():
    """README is read in some minutes: at most 120 lines and 1,200 words."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert len(readme.split()) <= 1200


def test_no_word_about_where_it_was_made():
    """No absolute path of a machine in any tracked text file."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, files):
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".json", ".ipynb", ".txt", ".yaml", ".csv", ""}
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"/(?:root|home|work|opt)/\w", text.replace("/home/user", "")), (
                name
            )
