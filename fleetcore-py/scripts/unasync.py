"""Makes the synchronous flavour of the package from the one for asyncio, so that they cannot differ.

    python scripts/unasync.py           writes python/fleetcore/_sync.py
    python scripts/unasync.py --check   fails when it is not what would be written
"""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "python" / "fleetcore"
HEAD = '''"""The fleet for threads. Made from aio.py by scripts/unasync.py: change that."""
'''
RULES = [
    (r"(?s)\A\"\"\".*?\"\"\"\n", HEAD),
    (r"\nfrom \._loop import Opening\n", "\n"),
    (r"from \._loop import do", "from ._block import do"),
    (r"# The synchronous flavour.*\n\n?", ""),
    (r"Opening\[(\w+)\]", r"\1"),
    (r"Opening\((self\..*)\)\n", r"\1\n"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"AsyncIterator", "Iterator"),
    (r"StopAsyncIteration", "StopIteration"),
    (r"__a(iter|next|enter|exit)__", r"__\1__"),
    (r"\baclose\b", "close"),
]


def made() -> str:
    text = (PACKAGE / "aio.py").read_text()
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


def main() -> int:
    path = PACKAGE / "_sync.py"
    if sys.argv[1:] == ["--check"]:
        if path.read_text() != made():
            print("_sync.py is not what aio.py makes: run scripts/unasync.py", file=sys.stderr)
            return 1
        return 0
    path.write_text(made())
    return 0


if __name__ == "__main__":
    sys.exit(main())
