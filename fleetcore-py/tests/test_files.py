"""Files: the cases of the Rust behaviour suite `files`, over every backend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fleetcore


def test_write_and_read_back(fleet: fleetcore.Fleet, target: str, scratch: str) -> None:
    files = fleet.files(target)
    data = os.urandom(3_000_000)
    info = files.write(f"{scratch}/a b", data, mode=0o640)
    assert (info.size, info.kind) == (len(data), "file")
    assert files.read(f"{scratch}/a b") == data
    assert files.read(f"{scratch}/a b", offset=1_000_000, length=7) == data[1_000_000:1_000_007]
    assert files.read(f"{scratch}/a b", offset=len(data) - 3) == data[-3:]
    assert b"".join(files.chunks(f"{scratch}/a b")) == data


def test_text_pieces_and_append(fleet: fleetcore.Fleet, target: str, scratch: str) -> None:
    files = fleet.files(target)
    files.write(f"{scratch}/deep/er/f", iter(("one ", "two ")), parents=True)
    files.write(f"{scratch}/deep/er/f", "three", append=True)
    assert files.read_text(f"{scratch}/deep/er/f") == "one two three"


def test_a_broken_write_leaves_the_old_file(fleet: fleetcore.Fleet, target: str, scratch: str) -> None:
    files = fleet.files(target)
    files.write(f"{scratch}/f", "old")

    def pieces() -> object:
        yield b"new"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        files.write(f"{scratch}/f", pieces())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        files.write(f"{scratch}/f", 7)  # type: ignore[arg-type]
    assert files.read_text(f"{scratch}/f") == "old"
    assert [f.path for f in files.list(scratch)] == ["f"]


def test_directories(fleet: fleetcore.Fleet, target: str, scratch: str) -> None:
    files = fleet.files(target)
    files.mkdir(f"{scratch}/d/e")
    files.mkdir(f"{scratch}/d/e")
    files.write(f"{scratch}/d/f", "x")
    files.rename(f"{scratch}/d/f", f"{scratch}/d/g")
    listed = files.list(f"{scratch}/d")
    assert [(f.path, f.kind) for f in listed] == [("e", "dir"), ("g", "file")]
    assert "<td>g</td>" in listed._repr_html_()
    assert files.stat(f"{scratch}/d").is_dir and files.exists(f"{scratch}/d/g")
    with pytest.raises(fleetcore.InvalidStateError):
        files.remove(f"{scratch}/d")
    files.remove(f"{scratch}/d", recursive=True)
    assert not files.exists(f"{scratch}/d")


def test_errors(fleet: fleetcore.Fleet, target: str, scratch: str) -> None:
    files = fleet.files(target)
    with pytest.raises(fleetcore.NotFoundError):
        files.read(f"{scratch}/none")
    with pytest.raises(fleetcore.NotFoundError):
        files.stat(f"{scratch}/none")
    with pytest.raises(fleetcore.NotFoundError):
        files.write(f"{scratch}/no/such/dir", "x")
    with pytest.raises(fleetcore.InvalidInputError):
        files.read(f"{scratch}/none", offset=-1)
    with pytest.raises(TypeError):
        files.read(7)  # type: ignore[arg-type]


def test_progress(fleet: fleetcore.Fleet, target: str, scratch: str, tmp_path: Path) -> None:
    files = fleet.files(target)
    data = os.urandom(2_500_000)
    (tmp_path / "up").write_bytes(data)
    told: list[fleetcore.Progress] = []
    assert files.upload(tmp_path / "up", f"{scratch}/f", progress=told.append) == len(data)
    assert told[-1].done == told[-1].total == sum(p.delta for p in told) == len(data)
    assert told[-1].fraction == 1.0
    told.clear()
    assert files.download(f"{scratch}/f", tmp_path / "down", progress=told.append) == len(data)
    assert told[-1].done == told[-1].total == len(data)
    assert (tmp_path / "down").read_bytes() == data
    told.clear()
    assert files.read(f"{scratch}/f", progress=told.append) == data
    assert sum(p.delta for p in told) == len(data)


def test_trees(fleet: fleetcore.Fleet, target: str, scratch: str, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/a").write_text("a")
    (tmp_path / "tree/sub/b").write_text("b")
    files = fleet.files(target)
    files.upload(tmp_path / "tree", f"{scratch}/tree")
    assert files.read_text(f"{scratch}/tree/sub/b") == "b"
    files.download(f"{scratch}/tree", tmp_path / "back")
    assert (tmp_path / "back/a").read_text() == "a"
    assert (tmp_path / "back/sub/b").read_text() == "b"
