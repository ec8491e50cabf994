"""The house's rules: dependencies run one way, the package list matches the folders, the wheel is complete."""

import ast
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("schema", "shards", "annotate", "train")
MAY_IMPORT = {
    "schema": {"schema"},
    "shards": {"schema", "shards"},
    "annotate": {"schema", "shards", "annotate"},
    "train": {"schema", "shards", "train"},
}
SCHEMA_THIRD_PARTY = {"pydantic", "pyarrow"}
NOT_IN_BASE = {
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "sklearn",
    "openai",
    "vllm",
    "ray",
    "scipy",
    "cv2",
    "matplotlib",
}


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted absolute module, whether at module level) of every import in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    package = ("tagmoe", *path.relative_to(ROOT).parts[:-1])
    top = set(ast.walk(tree)) - {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.append((module, node in top))
            found += [(f"{module}.{alias.name}", node in top) for alias in node.names if not node.module]
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_dependencies_run_one_way(floor):
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(floor)
        for module, _ in imports(path)
        if module.startswith("tagmoe.") and module.split(".")[1] not in MAY_IMPORT[floor]
    ]
    assert sources(floor)
    assert wrong == []


def test_schema_needs_only_pydantic_and_pyarrow():
    wrong = [
        f"{path.name} imports {module}"
        for path in sources("schema")
        for module, _ in imports(path)
        if (head := module.split(".")[0]) not in SCHEMA_THIRD_PARTY | {"tagmoe"} and head not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_shards_use_torch_only_in_the_adapter():
    users = {path.name for path in sources("shards") for module, _ in imports(path) if module.split(".")[0] == "torch"}
    assert users <= {"torch_adapter.py"}


def test_packages_are_exactly_the_folders():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(("tagmoe", *path.relative_to(ROOT).parts))
        for floor in FLOORS
        for path in [ROOT / floor, *(ROOT / floor).rglob("*")]
        if path.is_dir() and path.name != "__pycache__" and any(path.glob("*.py"))
    }
    assert listed == folders | {"tagmoe"}
    assert all((ROOT.joinpath(*name.split(".")[1:]) / "__init__.py").is_file() for name in folders)


def test_root_holds_no_module_but_the_command_line():
    assert {path.name for path in ROOT.glob("*.py")} == {"cli.py"}


def test_every_data_file_is_packaged():
    """What is no Python file in a package must match the package-data patterns, or it would miss from the wheel."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    lost = [
        str(path.relative_to(ROOT))
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(path.match(pattern) for pattern in patterns)
    ]
    assert lost == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    expected = {f"tagmoe/{path.relative_to(ROOT)}" for floor in FLOORS for path in sources(floor)} | {"tagmoe/cli.py"}
    assert inside == expected


def test_the_wheel_runs_outside_the_repository_on_the_base_install(wheel, tmp_path):
    """A venv that sees only the base dependencies: heavy libraries are blocked, and the whole base path works."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    [site] = (home / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    import pydantic

    # The installed base dependencies, behind a finder that refuses everything the base install does not have.
    (site / "base.pth").write_text(f"import base_only\n{Path(pydantic.__file__).parent.parent}\n")
    (site / "base_only.py").write_text(
        "import sys\nclass Refuse:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(NOT_IN_BASE)!r}:\n            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )

    def tagmoe(*arguments: str) -> str:
        command = [str(python), "-m", "tagmoe.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stdout[-1500:], done.stderr[-1500:])
        return done.stdout

    where = [str(python), "-c", "import tagmoe.schema as s; print(s.__file__)"]
    assert str(site) in subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    corpus = ROOT / "examples" / "demo-corpus"
    tagmoe("annotate", str(corpus), "--out", "run", "--limit", "20", "--workers", "1")
    tagmoe("audit", "run", "--out", "report")
    tagmoe("build-shards", "run", "--out", "shards")
    assert "20 samples in 2 shards, every byte as written" in tagmoe("verify", "shards")
