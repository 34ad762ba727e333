"""Laws about the repository itself: import direction, lightness, and that what the README says is there."""

import ast
import re
import subprocess
import sys

import pytest
from places import ROOT

# A module may import those that stand before it (read <- split <- steps <- ... <- cli).
ORDER = [
    "trace", "split", "rows", "formats_chat", "formats_servers", "formats_training", "formats_evaluation", "formats_labelled", "formats", "read", "steps", "reflect", "unsafe", "scores", "model", "grade", "guard", "guard_models", "guard_endpoint", "table", "run", "write", "prompts", "engines", "generation", "entropy", "stats",
    "findings", "study", "figure", "plot", "plot_entropy", "plot_unsafe", "plot_guard", "plot_study", "gallery", "view", "cli",
]  # fmt: skip
# Modules beside each other, of which neither may import the other although one stands first.
_FORMATS = {
    "formats_chat", "formats_servers", "formats_training", "formats_evaluation", "formats_labelled", "formats",
}  # fmt: skip
_READING = {"rows", "read"} | _FORMATS
APART = {
    "grade": {"trace", "split", "steps", "reflect", "unsafe", "scores", "model"} | _READING,
    "rows": {"split"},
    "steps": _READING,
    "reflect": _READING,
    "scores": {"trace", "split", "steps", "reflect", "unsafe"} | _READING,
    "unsafe": _READING,
    "model": {"steps", "reflect", "unsafe"} | _READING,
    "guard": {"split", "steps", "reflect", "unsafe", "scores", "model"} | _READING,
    "guard_models": {"split", "steps", "reflect", "unsafe", "scores"} | _READING,
    "guard_endpoint": {"split", "steps", "reflect", "unsafe", "scores", "model", "guard_models"}
    | _READING,
    "table": _READING | {"scores"},
    "prompts": {
        "split",
        "steps",
        "reflect",
        "unsafe",
        "scores",
        "model",
        "grade",
        "guard",
        "table",
        "run",
        "write",
    }
    | _FORMATS,
    "entropy": {
        "trace",
        "split",
        "steps",
        "reflect",
        "unsafe",
        "scores",
        "model",
        "guard",
        "guard_models",
        "guard_endpoint",
        "table",
        "run",
        "prompts",
        "engines",
        "generation",
    }
    | _READING,
    "view": {
        "entropy",
        "stats",
        "findings",
        "study",
        "figure",
        "plot",
        "plot_entropy",
        "plot_unsafe",
        "plot_guard",
        "plot_study",
        "gallery",
    },
    "stats": {
        "entropy",
        "scores",
        "model",
        "guard",
        "trace",
        "split",
        "steps",
        "reflect",
        "unsafe",
        "table",
        "run",
        "write",
    }
    | {"prompts", "engines", "generation"}
    | _READING,
}


def own_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cotlens."):
            yield node.module.removeprefix("cotlens.")


def test_imports_point_one_way():
    modules = {
        path.stem: path for path in (ROOT / "cotlens").glob("*.py") if path.stem != "__init__"
    }
    assert set(modules) == set(ORDER)
    for name, path in modules.items():
        allowed = set(ORDER[: ORDER.index(name)]) - APART.get(name, set())
        assert set(own_imports(path)) <= allowed, name


def test_import_loads_no_heavy_package():
    """`import cotlens` loads neither torch nor pandas nor matplotlib; every public name is there when asked for."""
    script = (
        "import sys; import cotlens;"
        "assert not {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules);"
        "[getattr(cotlens, name) for name, home in cotlens._HOME.items() if home not in ('scores', 'model')];"
        "assert 'torch' not in sys.modules; [getattr(cotlens, name) for name in cotlens.__all__]; assert set(cotlens.__all__) <= set(dir(cotlens))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_readme_shows_every_module():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in ("cotlens", "benchmarks", "notebooks", "trainers"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name in readme, path


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
