"""Every command and program in README.md runs, in order, on files that the project ships.

A comment before a block says how: `<!-- test: as it is -->` runs `make` in the repository itself,
whose environment is already set up; `<!-- test: dry run -->` only asks `make` what it would do;
`<!-- test: assets -->` takes minutes and the pretrained models.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxqat.config_file import read_config
from onnxqat.recipe import Recipe
from tests.support.assets import needs_assets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- test: (?P<how>[\w ]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    kind: str
    text: str
    how: str | None
    line: int

    def __str__(self) -> str:
        return f"line {self.line}"


BLOCKS = [
    Block(
        match["kind"], match["text"], match["how"], README.count("\n", 0, match.start("text")) + 1
    )
    for match in BLOCK.finditer(README)
]
IN_A_FOLDER = [block for block in BLOCKS if block.kind in ("sh", "python") and block.how is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the shipped models, and `.venv`."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("models", "tools"):
        (path / name).symlink_to(ROOT / name)
    (path / ".venv" / "bin").mkdir(parents=True)
    (path / ".venv" / "bin" / "onnxqat").symlink_to(Path(sys.executable).with_name("onnxqat"))
    return path


def run(command: list[str], cwd: Path) -> str:
    """Standard output of a command that succeeds."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": tools},
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def shell(block: Block) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", block.text]


def how(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.how == kind]


def test_the_blocks_in_order_do_what_is_told(folder):
    for block in IN_A_FOLDER:
        command = shell(block) if block.kind == "sh" else [sys.executable, "-c", block.text]
        run(command, folder)
    made = {path.name for path in folder.iterdir()}
    assert {"digits-out", "samples.npz", "ptq.onnx", "qat.onnx", "qat.engine", "tuned.onnx"} <= made
    assert (folder / "digits-out" / "summary.json").is_file()


@pytest.mark.slow  # sets up an environment where none is
@pytest.mark.parametrize("block", how("as it is"), ids=str)
def test_the_make_commands_work(block):
    run(shell(block), ROOT)


@pytest.mark.parametrize("block", how("dry run"), ids=str)
def test_the_make_commands_exist(block):
    for line in filter(None, block.text.splitlines()):
        run(["make", "--dry-run", *line.partition("#")[0].split()[1:]], ROOT)


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize("block", how("assets"), ids=str)
def test_the_commands_behind_the_results_work(block, folder):
    run(shell(block), folder)


def test_every_block_is_run_or_read_by_one_of_these_tests():
    assert {block.kind for block in BLOCKS} == {"sh", "python", "toml"}
    assert {block.how for block in BLOCKS} <= {None, "as it is", "dry run", "assets"}


def test_the_recipes_are_complete(tmp_path):
    for block in (block for block in BLOCKS if block.kind == "toml"):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(block.text)
        read_config(Recipe, recipe)


def test_every_command_is_listed_and_every_listed_one_exists():
    listed = set(re.findall(r"^\| `onnxqat (\w+)", README, re.M))
    assert listed == set(re.findall(r"^│ (\w+)  ", run(["onnxqat", "--help"], ROOT), re.M))


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
