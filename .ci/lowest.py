"""The lowest versions of evalgpt's dependencies that setup.cfg accepts, as requirements for pip.

    pip install $(python .ci/lowest.py)

torch stays as constraints.txt has it: it is the one that is large, and there is one wheel of it at hand.
"""

import configparser
import re
import sys
from pathlib import Path

SKIPPED = {"torch"}


def lowest() -> list[str]:
    config = configparser.ConfigParser()
    config.read(Path(__file__).resolve().parent.parent / "setup.cfg")
    found = []
    for line in config["options"]["install_requires"].strip().splitlines():
        match = re.fullmatch(r"([\w.-]+) *>= *([\w.]+)", line.strip())
        if match is None:
            sys.exit(f"setup.cfg: {line!r} is not of the form 'name >= version'")
        if match[1] not in SKIPPED:
            found.append(f"{match[1]}=={match[2]}")
    return found


if __name__ == "__main__":
    print("\n".join(lowest()))
