"""``python -m evalgpt``."""

from evalgpt.cli import main

main()
