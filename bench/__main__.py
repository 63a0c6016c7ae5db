"""``python -m bench NAME ...`` runs ``bench/bench_NAME.py``; ``python -m bench`` lists the names."""

import importlib
import pkgutil
import sys
from pathlib import Path

PREFIX = "bench_"


def names() -> list[str]:
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name.removeprefix(PREFIX) for module in modules if module.name.startswith(PREFIX))


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in names():
        print(f"usage: python -m bench {{{'|'.join(names())}}} [options]", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"bench.{PREFIX}{argv[0]}").main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
