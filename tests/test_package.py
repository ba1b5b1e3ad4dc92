"""The package as it is installed: version, surface, light imports, pinned dependencies."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import flowvid
from flowvid.data.footage.writers import read_metadata, write_video

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "flowvid").rglob("*.py"))


def _name(requirement: str) -> str:
    """The normalised name of the distribution that a requirement asks for."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


def _defines_all(tree: ast.Module) -> bool:
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def test_version_is_that_of_the_project() -> None:
    assert flowvid.__version__ == version("flowvid") == PROJECT["project"]["version"]


def test_citation_names_the_version() -> None:
    assert f"version: {PROJECT['project']['version']}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_every_module_has_a_docstring_and_states_its_surface(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "expected a module docstring"
    only_docstring = path.name == "__init__.py" and len(tree.body) == 1
    assert only_docstring or _defines_all(tree), "expected __all__, or a package of nothing but a docstring"


def test_importing_flowvid_stays_light() -> None:
    code = "import sys, flowvid, flowvid.noise, flowvid.video; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torchdiffeq", "matplotlib", "sklearn", "av"} & set(run.stdout.split())


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    groups = PROJECT["dependency-groups"].values()
    tools = [requirement for group in groups for requirement in group if isinstance(requirement, str)]
    needed = {_name(requirement) for requirement in PROJECT["project"]["dependencies"] + tools}
    assert needed <= {_name(pin) for pin in pins}


def test_the_readmes_solver_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "flowvid.solvers" in block)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([8, 3, 3]) 2 2 0 complete\n"


def test_the_readmes_footage_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "Footage" in block)
    monkeypatch.chdir(tmp_path)
    write_video(Path("clip.mp4"), torch.zeros(20, 3, 64, 64), fps=8.0)
    exec(compile(example, "README.md", "exec"), {})
    assert read_metadata(Path("three.mp4"))["from"] == "clip.mp4"
