"""Resolve every dependency with the newest releases and write them to constraints.txt.

    python tools/pin_constraints.py python3.10 python3.11 python3.12 python3.13

Each interpreter resolves `-e .[cpu,rtx,report,vision,dev]` in a throw-away virtual environment,
without installing anything. Where interpreters need different releases, the line carries a marker.
`torch` is pinned by hand (`TORCH`), because its release decides what the bridge is tested against.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"
EXTRAS = "cpu,rtx,report,vision,dev"
ACCELERATOR_PREFIXES = ("nvidia-", "cuda-", "triton")
"""What a CUDA build of torch brings along; its own metadata pins these exactly."""

HEADER = f"""\
# What CI tests, for every Python the project supports. Written by tools/pin_constraints.py.
#
# {TORCH} matches any build of that release. The default one on the public index for Linux carries
# CUDA (several GB); point pip at a CPU-only build of the same release to save them:
#     make demo PIP_FLAGS="--find-links FOLDER_WITH_THE_CPU_WHEEL"
"""

Pins = dict[str, str]
Version = tuple[int, int]


def resolve(python: str) -> tuple[Version, Pins]:
    """The Python version and the releases that pip chooses for it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "-q"]
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        report = Path(folder, "report.json")
        wanted = f"{ROOT}[{EXTRAS}]"
        dry_run = ["install", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, *dry_run, TORCH, "-e", wanted], check=True)
        return read_report(json.loads(report.read_text()))


def read_report(report: dict[str, Any]) -> tuple[Version, Pins]:
    """The Python version and the pins in a report of `pip install --report`."""
    major, minor = report["environment"]["python_version"].split(".")
    packages = (entry["metadata"] for entry in report["install"])
    pins = {normal(p["name"]): p["version"].partition("+")[0] for p in packages}
    return (int(major), int(minor)), {
        name: version
        for name, version in pins.items()
        if name != "onnxqat" and not name.startswith(ACCELERATOR_PREFIXES)
    }


def normal(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return name.lower().replace("_", "-").replace(".", "-")


def merge(resolved: dict[Version, Pins]) -> Iterator[str]:
    """Constraint lines, sorted by name, with a marker where not every Python has the release."""
    for name in sorted({name for pins in resolved.values() for name in pins}):
        pythons: dict[str, list[Version]] = defaultdict(list)
        for version in sorted(resolved):
            if name in resolved[version]:
                pythons[resolved[version][name]].append(version)
        if len(pythons) == 1:
            yield f"{name}=={next(iter(pythons))}"
            continue
        yield from (f"{name}=={pin} ; {marker(pythons[pin], resolved)}" for pin in pythons)


def marker(versions: list[Version], known: Iterable[Version]) -> str:
    """An environment marker for a run of neighbouring Python versions, open at the known ends."""
    low, high = versions[0], versions[-1]
    bounds = []
    if low != min(known):
        bounds.append(f"python_version >= '{low[0]}.{low[1]}'")
    if high != max(known):
        bounds.append(f"python_version < '{high[0]}.{high[1] + 1}'")
    return " and ".join(bounds)


def main() -> None:
    """Resolve for each interpreter named on the command line and write constraints.txt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("python", nargs="+", help="interpreters, one of each Python version")
    resolved = dict(resolve(python) for python in parser.parse_args().python)
    Path(ROOT, "constraints.txt").write_text(HEADER + "\n".join(merge(resolved)) + "\n")


if __name__ == "__main__":
    main()
