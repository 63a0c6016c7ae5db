"""``python -m edgekern`` is the ``edgekern`` command."""

from edgekern.cli import main

main()
