"""Builds the API reference from docstrings, with every warning an error, and checks that nothing public is missing.

python scripts/reference.py DIRECTORY
"""

import sys
import warnings
from pathlib import Path

import fleetcore
import pdoc

MODULES = ["fleetcore", "fleetcore.aio", "fleetcore.errors", "fleetcore.types", "fleetcore.compat.batwa"]


def main(out: Path) -> int:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Cannot determine where")  # fields of a TypedDict
    for name in fleetcore.__all__:
        getattr(fleetcore, name)  # some are made when they are first asked for
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=out)
    missing = [name for name in MODULES if not (out / (name.replace(".", "/") + ".html")).exists()]
    page = (out / "fleetcore.html").read_text()
    missing += [name for name in fleetcore.__all__ if f'id="{name}"' not in page and name != "__version__"]
    if missing:
        print("not in the reference:", ", ".join(missing), file=sys.stderr)
        return 1
    print(out / "index.html")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
