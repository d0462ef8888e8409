"""Files: the cases of the Rust behaviour suite `files`, by the same names, over every backend."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

import fleetcore
from fleetcore import Files, Fleet


@pytest.fixture
def files(fleet: Fleet, target: str) -> Files:
    return fleet.files(target)


def test_what_is_written_is_read(files: Files, scratch: str) -> None:
    info = files.write(f"{scratch}/a b", b"hello")
    assert (info.size, info.kind) == (5, "file")
    assert files.read(f"{scratch}/a b") == b"hello"
    assert files.read_text(Path(scratch, "a b")) == "hello"
    files.write(f"{scratch}/empty", b"")
    assert files.read(f"{scratch}/empty") == b""


def test_every_byte_is_kept(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/f", bytes(range(256)) * 3)
    assert files.read(f"{scratch}/f") == bytes(range(256)) * 3


def test_a_large_file_goes_through_in_a_stream(files: Files, scratch: str) -> None:
    data = os.urandom(3_000_000)
    files.write(f"{scratch}/f", (data[at : at + 100_000] for at in range(0, len(data), 100_000)))
    pieces = list(files.chunks(f"{scratch}/f"))
    assert b"".join(pieces) == data and len(pieces) > 1


def test_any_range_can_be_read(files: Files, scratch: str) -> None:
    data = bytes(range(200))
    files.write(f"{scratch}/f", data)
    for offset, length in ((0, 7), (100, 0), (199, 1), (150, 1000), (200, 5), (1000, 5)):
        assert files.read(f"{scratch}/f", offset=offset, length=length) == data[offset : offset + length]
    assert files.read(f"{scratch}/f", offset=197) == data[197:]


def test_stat_tells_what_a_path_is(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/f", b"abc", mode=0o640)
    there = files.stat(f"{scratch}/f")
    assert (there.is_file, there.size, there.mode) == (True, 3, 0o640)
    assert there.modified_at is not None and there.modified_at.tzinfo is not None
    assert files.stat(scratch).is_dir
    assert files.exists(f"{scratch}/f") and not files.exists(f"{scratch}/g")


def test_writing_truncates_what_was_there(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/f", "a long text")
    files.write(f"{scratch}/f", "short")
    files.write(f"{scratch}/f", "tiny", atomic=False)
    assert files.read_text(f"{scratch}/f") == "tiny"


def test_appending_keeps_what_was_there(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/f", "one ")
    files.write(f"{scratch}/f", iter(("two ", b"three")), append=True)
    assert files.read_text(f"{scratch}/f") == "one two three"


def test_an_atomic_write_is_all_or_nothing(files: Files, scratch: str) -> None:
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


def test_a_write_that_fails_is_told(files: Files, scratch: str) -> None:
    with pytest.raises(fleetcore.NotFoundError):
        files.write(f"{scratch}/no/such/dir", "x")
    with pytest.raises(fleetcore.FleetError):
        files.write(scratch, "x")


def test_permission_bits_are_set(files: Files, scratch: str) -> None:
    for mode in (0o600, 0o755, 0o444):
        files.write(f"{scratch}/{mode:o}", "x", mode=mode)
        assert files.stat(f"{scratch}/{mode:o}").mode == mode


def test_missing_directories_are_made_on_request(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/deep/er/f", "x", parents=True)
    files.mkdir(f"{scratch}/deep/er/still")
    files.mkdir(f"{scratch}/deep/er/still")
    assert files.stat(f"{scratch}/deep/er/still").is_dir


def test_a_directory_is_listed_by_name(files: Files, scratch: str) -> None:
    for name in ("b", "a", "c"):
        files.write(f"{scratch}/{name}", name * 2)
    files.mkdir(f"{scratch}/aa")
    listed = files.list(scratch)
    assert [(f.path, f.kind) for f in listed] == [("a", "file"), ("aa", "dir"), ("b", "file"), ("c", "file")]
    assert "<td>aa</td>" in listed._repr_html_()


def test_odd_names_are_names(files: Files, scratch: str) -> None:
    names = sorted(["-n", "--help", "a b", "'q'", '"', "$(id)", "*", "ü", "\\", "new\nline", "a;b", "~"])
    for name in names:
        files.write(f"{scratch}/{name}", name)
    assert sorted(f.path for f in files.list(scratch)) == names
    for name in names:
        assert files.read_text(f"{scratch}/{name}") == name
        files.remove(f"{scratch}/{name}")
    assert files.list(scratch) == []


def test_rename_replaces(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/a", "a")
    files.write(f"{scratch}/b", "b")
    files.rename(f"{scratch}/a", f"{scratch}/b")
    assert files.read_text(f"{scratch}/b") == "a" and not files.exists(f"{scratch}/a")


def test_remove_takes_what_it_is_told(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/d/f", "x", parents=True)
    with pytest.raises(fleetcore.InvalidStateError):
        files.remove(f"{scratch}/d")
    files.remove(f"{scratch}/d/f")
    files.remove(f"{scratch}/d")
    files.write(f"{scratch}/e/f/g", "x", parents=True)
    files.remove(f"{scratch}/e", recursive=True)
    assert files.list(scratch) == []


def test_what_is_missing_is_not_found(files: Files, scratch: str) -> None:
    none = f"{scratch}/none"
    for does in (files.read, files.stat, files.list, files.remove):
        with pytest.raises(fleetcore.NotFoundError):
            does(none)
    with pytest.raises(fleetcore.NotFoundError):
        files.rename(none, f"{scratch}/x")


def test_a_directory_is_not_a_file(files: Files, scratch: str) -> None:
    files.write(f"{scratch}/f", "x")
    with pytest.raises(fleetcore.FleetError):
        files.read(scratch)
    with pytest.raises(fleetcore.FleetError):
        files.list(f"{scratch}/f")


def test_bad_paths_name_the_field(files: Files, scratch: str) -> None:
    with pytest.raises(fleetcore.InvalidInputError) as bad:
        files.read("a\0b")
    assert bad.value.field == "path"
    with pytest.raises(fleetcore.InvalidInputError):
        files.read(f"{scratch}/none", offset=-1)
    with pytest.raises(TypeError):
        files.read(7)  # type: ignore[arg-type]


def test_a_tree_goes_out_and_in_as_tar(files: Files, scratch: str, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/a").write_text("a")
    (tmp_path / "tree/sub/b").write_text("b")
    files.upload(tmp_path / "tree", f"{scratch}/tree")
    assert files.read_text(f"{scratch}/tree/sub/b") == "b"
    files.copy(f"{scratch}/tree", files, f"{scratch}/copy")
    files.download(f"{scratch}/copy", tmp_path / "back")
    assert (tmp_path / "back/a").read_text() == "a"
    assert (tmp_path / "back/sub/b").read_text() == "b"


def test_progress_is_told(files: Files, scratch: str, tmp_path: Path) -> None:
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


def _tar(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    return out.getvalue()


def _unpack(files: Files, path: str, data: bytes) -> None:
    writer = files._files.tar_writer(path)
    try:
        writer.write(data).wait()
        writer.finish().wait()
    except BaseException:
        writer.abort().wait()
        raise


def test_a_tar_that_climbs_out_is_refused(files: Files, scratch: str) -> None:
    files.mkdir(f"{scratch}/in")
    with pytest.raises(fleetcore.FleetError):
        _unpack(files, f"{scratch}/in", _tar("../out"))
    assert not files.exists(f"{scratch}/out")


def test_a_tar_that_is_damaged_is_refused(files: Files, scratch: str) -> None:
    files.mkdir(f"{scratch}/in")
    with pytest.raises(fleetcore.FleetError):
        _unpack(files, f"{scratch}/in", b"no archive" * 200)
