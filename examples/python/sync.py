"""Makes a directory of a target like one of this host: only what differs is sent, with a progress bar.

    python sync.py ./site sandbox/web /srv/site
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fleetcore


@contextmanager
def bar(total: int) -> Iterator[fleetcore.OnProgress]:
    """A bar of tqdm where it is installed, else a line of our own."""
    try:
        from tqdm import tqdm
    except ImportError:
        done = 0

        def tell(p: fleetcore.Progress) -> None:
            nonlocal done
            done += p.delta
            print(f"\r{done:>12} of {total} bytes  {p.path[-40:]:<40}", end="", file=sys.stderr, flush=True)

        yield tell
        print(file=sys.stderr)
    else:
        with tqdm(total=total, unit="B", unit_scale=True) as shown:
            yield lambda p: shown.update(p.delta)


def there(files: fleetcore.Files, path: str) -> dict[str, fleetcore.FileInfo]:
    """Files below a directory, by their path in it."""
    found: dict[str, fleetcore.FileInfo] = {}
    for entry in files.list(path) if files.exists(path) else ():
        if entry.is_dir:
            inner = there(files, f"{path}/{entry.path}")
            found |= {f"{entry.path}/{name}": info for name, info in inner.items()}
        else:
            found[entry.path] = entry
    return found


def main(local: str, target: str, remote: str) -> None:
    fleet = fleetcore.Fleet.local(ssh=True, data_dir=os.environ.get("FLEETCORE_DATA_DIR"))
    files = fleet.files(target)
    known = there(files, remote)
    here = {p.relative_to(local).as_posix(): p for p in Path(local).rglob("*") if p.is_file()}

    def differs(name: str, path: Path) -> bool:
        info = known.get(name)
        newer = info is not None and info.modified_at is not None
        return (
            info is None
            or info.size != path.stat().st_size
            or (newer and info.modified_at is not None and info.modified_at.timestamp() < path.stat().st_mtime)
        )

    changed = {name: path for name, path in here.items() if differs(name, path)}
    with bar(sum(p.stat().st_size for p in changed.values())) as progress:
        for name, path in changed.items():
            files.upload(path, f"{remote}/{name}", progress=progress)
    for name in known.keys() - here.keys():
        files.remove(f"{remote}/{name}")
    print(f"{len(changed)} sent, {len(here) - len(changed)} as they were, {len(known.keys() - here.keys())} removed")


if __name__ == "__main__":
    main(*sys.argv[1:])
