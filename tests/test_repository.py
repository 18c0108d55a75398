"""The repository as a whole: what is fixed for users, and what must not creep in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

import onnxqat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "polygraphy", "onnx", "numpy"}
SUPPORTED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
NOT_TESTED_BY_CI = {"onnxruntime-gpu", "tensorboard", "tensorrt"}


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_importing_the_package_loads_no_heavy_library():
    assert not modules_after("import onnxqat") & HEAVY


def test_asking_for_help_loads_no_heavy_library():
    code = "from onnxqat.cli.main import main; main(['quantize', '--help'])"
    assert not modules_after(code) & {"torch", "tensorrt", "tensorrt_rtx", "onnxruntime"}


@pytest.mark.parametrize("command", ["place", "quantize"])
def test_commands_without_training_never_import_torch(command, tmp_path):
    model = ROOT / "models" / "digits" / "model.onnx"
    data = ["--data", str(model.with_name("train.npz")), "-o", str(tmp_path / "out.onnx")]
    arguments = [command, str(model), *(data if command == "quantize" else [])]
    code = f"from onnxqat.cli.main import main; assert main({arguments!r}) == 0"
    assert "torch" not in modules_after(code)


@needs_git
def test_the_top_level_is_what_users_were_told():
    top_level = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert top_level == {
        ".ci",
        ".gitignore",
        "LICENSE",
        "Makefile",
        "README.md",
        "constraints.txt",
        "models",
        "onnxqat",
        "pyproject.toml",
        "tests",
        "tools",
    }


def pins(python: str) -> dict[str, str]:
    """The pinned releases that hold for a Python version."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert pin.name not in found, f"{pin.name} is pinned twice for Python {python}"
            found[pin.name] = str(pin.specifier).removeprefix("==")
    return found


def dependencies(python: str) -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    everything = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    wanted = [Requirement(line) for line in everything]
    return [one for one in wanted if applies(one.marker, python)]


def applies(marker: Marker | None, python: str) -> bool:
    return marker is None or marker.evaluate({"python_version": python})


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_every_dependency_is_pinned_within_what_is_declared(python):
    pinned = pins(python)
    for dependency in dependencies(python):
        if dependency.name not in NOT_TESTED_BY_CI:
            assert pinned[dependency.name] in dependency.specifier, dependency


def test_the_oldest_supported_python_is_the_same_everywhere():
    assert PROJECT["requires-python"] == f">={SUPPORTED_PYTHONS[0]}"
    assert f"OLDEST := {SUPPORTED_PYTHONS[0]}\n" in (ROOT / "Makefile").read_text()


def test_torch_is_pinned_to_the_release_that_the_bridge_is_tested_with():
    assert {pins(python)["torch"] for python in SUPPORTED_PYTHONS} == {"2.13.0"}


def test_the_changelog_begins_with_the_current_version():
    changelog = (ROOT / "onnxqat" / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert versions[0] == onnxqat.__version__


@needs_git
def test_no_file_names_a_path_of_a_particular_machine():
    home = re.compile(rb"/(?:home|Users)/\w+/|/root/|/work/|/tmp/\w")
    texts = (path for path in tracked_files() if path.suffix not in {".onnx", ".npz", ".png"})
    found = {
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in texts
        if path != Path(__file__) and (match := home.search(path.read_bytes()))
    }
    assert not found


def test_every_makefile_target_is_told_by_make_help():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert {line.split()[0] for line in shown.stdout.splitlines()} == phony


def test_make_refuses_a_python_that_is_too_old(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert refused.returncode != 0
    assert f"onnxqat needs Python 3.10 or newer, and {old} is not" in refused.stderr
    assert not (tmp_path / "venv").exists()
