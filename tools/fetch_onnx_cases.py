"""Fetch the node tests that older ONNX releases shipped as files, for tests/bridge.

    python tools/fetch_onnx_cases.py [VERSION ...]

They come out of the release's wheel, which is unpacked but not installed, into
`build/onnx_cases/VERSION/` (13 MB to download for 1.12.0, the last release of opset 17).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "onnx_cases"
INSIDE = "onnx/backend/test/data/node/"
DEFAULT = ("1.12.0",)
ANY_MACHINE = (
    "--python-version=3.10",
    "--implementation=cp",
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_17_x86_64",
)
"""One wheel for all: the test data in it is the same for every Python and machine."""


def fetch(version: str) -> int:
    """Unpack the cases of a release; how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = ["--only-binary=:all:", *ANY_MACHINE, f"--dest={folder}", f"onnx=={version}"]
        subprocess.run([*pip, *wanted], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return unpack(wheel, FOLDER / version)


def unpack(wheel: Path, target: Path) -> int:
    """Write the cases of a wheel into a folder; how many there are."""
    with zipfile.ZipFile(wheel) as archive:
        files = [n for n in archive.namelist() if n.startswith(INSIDE) and not n.endswith("/")]
        for name in files:
            path = target / name.removeprefix(INSIDE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    return sum(name.endswith("/model.onnx") for name in files)


def main() -> None:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=DEFAULT, metavar="VERSION")
    for version in parser.parse_args().versions:
        print(f"{version}: {fetch(version)} cases in {FOLDER / version}")


if __name__ == "__main__":
    main()
