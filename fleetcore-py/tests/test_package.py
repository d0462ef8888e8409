"""The package itself: flavours, stubs, types, exceptions, displays."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fleetcore
from fleetcore import aio, types

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent


def test_the_synchronous_flavour_is_made_from_the_other() -> None:
    subprocess.run([sys.executable, PACKAGE / "scripts/unasync.py", "--check"], check=True)


@pytest.mark.parametrize("name", ["Fleet", "Files", "Machines", "Output", "Session", "Stream", "Tunnel"])
def test_both_flavours_have_the_same_names(name: str) -> None:
    def public(of: type) -> dict[str, object]:
        names = {n: v for n, v in inspect.getmembers(of) if not n.startswith("_")}
        return {n.replace("aclose", "close"): None for n in names}

    assert public(getattr(fleetcore, name)) == public(getattr(aio, name))


def test_everything_public_is_documented() -> None:
    missing = []
    for module in (fleetcore, aio):
        for name in module.__all__:
            thing = getattr(module, name)
            if not inspect.isclass(thing):
                continue
            if not thing.__doc__:
                missing.append(name)
            for member, value in vars(thing).items():
                function = getattr(value, "fget", getattr(value, "__func__", value))
                known = member in ("is_dir", "is_file", "default_code")
                if member.startswith("_") or known or not inspect.isfunction(function):
                    continue
                if not function.__doc__:
                    missing.append(f"{name}.{member}")
    assert missing == []


def test_stubs_match_the_extension() -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "fleetcore._fleetcore", "--ignore-disjoint-bases"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_package_tests_and_examples() -> None:
    pytest.importorskip("mypy")
    paths = [PACKAGE / "python/fleetcore", PACKAGE / "tests", PACKAGE / "benches", ROOT / "examples/python"]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(PACKAGE / "pyproject.toml"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_tree_of_exceptions() -> None:
    from fleetcore import errors

    classes = [getattr(errors, n) for n in errors.__all__]
    assert all(issubclass(c, fleetcore.FleetError) for c in classes)
    codes = [c.default_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert fleetcore.NotFoundError("x").code == "not_found"
    assert issubclass(fleetcore.InvalidInputError, ValueError)
    assert issubclass(fleetcore.FleetTimeoutError, TimeoutError)


def test_results_show_themselves() -> None:
    result = fleetcore.Result(1, b"<out>", b"x" * 100, 0.5, "sandbox/a")
    assert repr(result) == (
        f"Result(exit_code=1, stdout=b'<out>', stderr=b'{'x' * 60}'... (100 bytes), duration=0.5, target='sandbox/a')"
    )
    assert "&lt;out&gt;" in result._repr_html_()
    assert result == fleetcore.Result(1, b"<out>", b"x" * 100, 0.5, "sandbox/a")
    with pytest.raises(AttributeError):
        result.exit_code = 2  # type: ignore[misc]
    assert "Chunk(offset=3, channel='stdout', data=b'a')" == repr(types.Chunk(3, "stdout", b"a"))
    assert fleetcore.Table()._repr_html_().startswith("<table>")


def test_handles_are_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="Fleet.local"):
        fleetcore.Fleet("local")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleetcore.Fleet.local("here")  # type: ignore[call-arg]
