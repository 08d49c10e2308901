"""Lists and runs the benches: every module beside this one that has a ``main()``.

``python -m bench --list``; ``python -m bench`` runs ``kv``; ``python -m bench wal rpc`` runs those, one after the
other. What follows the names goes to each bench: ``python -m bench kv --full``.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

from plasmacloud.base.errors import PlasmaError

DEFAULT = "kv"


def find_benches() -> dict[str, str]:
    """Name and first line of each bench. Reads the files; imports nothing."""
    benches = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        source = (Path(__file__).parent / f"{module.name}.py").read_text()
        if not module.name.startswith("_") and "\ndef main(" in source:
            benches[module.name] = source.split('"""')[1].splitlines()[0]
    return benches


def main() -> None:
    benches = find_benches()
    arguments = sys.argv[1:]
    if arguments[:1] in (["--list"], ["--help"], ["-h"]):
        print("usage: python -m bench [--list] [NAME ...] [OPTION ...]   (options go to each bench; try NAME --help)\n")
        for name, title in benches.items():
            print(f"  {name:<12} {title}")
        return
    names = []
    while arguments and not arguments[0].startswith("-"):
        names.append(arguments.pop(0))
    unknown = sorted(set(names) - set(benches))
    if unknown:
        sys.exit(f"no such bench: {', '.join(unknown)}; there are: {', '.join(benches)}")
    for name in names or [DEFAULT]:
        run: Callable[[], None] = importlib.import_module(f"bench.{name}").main
        sys.argv = [f"bench {name}", *arguments]
        run()


if __name__ == "__main__":
    try:
        main()
    except PlasmaError as error:
        sys.exit(f"{error}\n{error.hint or ''}")
