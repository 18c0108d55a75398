"""Where a result comes from: the files, the programs and the settings that made it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileRecord:
    """One file that went into a run, or came out of it."""

    role: str
    """What it served for, as `model` or `calibration`."""
    name: str
    """The file's name without its folder: the report may be handed to others."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Version:
    """One program that took part."""

    name: str
    version: str


@dataclass(frozen=True)
class Setting:
    """One key of the recipe with the value that was in force, defaults included."""

    key: str
    """Sections and key joined by dots, as `finetune.steps`."""
    value: str


@dataclass(frozen=True)
class Provenance:
    """Everything that one needs to make a result again."""

    files: tuple[FileRecord, ...] = ()
    versions: tuple[Version, ...] = ()
    settings: tuple[Setting, ...] = ()
