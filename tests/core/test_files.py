"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.core.files import check_writable, make_folder, replacing


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    with replacing(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert part.parent == tmp_path  # a rename across file systems would be a copy

    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert target.read_text() == "new"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert target.read_text() == "old"


def test_a_new_file_has_the_permissions_that_the_user_s_other_files_have(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")

    with replacing(tmp_path / "replaced") as part:
        part.write_text("")

    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("use", [check_writable, lambda path: replacing(path).__enter__()])
def test_a_missing_folder_is_refused_by_name(tmp_path: Path, use: object) -> None:
    with pytest.raises(ConfigError, match="none"):
        use(tmp_path / "none" / "out.txt")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        check_writable(tmp_path)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.txt")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot make"):
        make_folder(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot write"):
            check_writable(tmp_path / "out.txt")
    finally:
        tmp_path.chmod(0o700)
