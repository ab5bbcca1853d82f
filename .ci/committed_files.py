"""Refuse files that do not belong in a commit: large ones, and such as name a folder of one machine.

python .ci/committed_files.py FILE...
"""

import re
import sys
from pathlib import Path

LARGEST = 200_000
"""Bytes: weights, corpora and pages of reports are larger, source and stored documents are not."""

MACHINE = re.compile(rb"(?<![\w.:/~$}\])-])/(?:home|Users|root|work|mnt|tmp)/\w")


def problems(path: Path) -> list[str]:
    """What is wrong with one file, a line each."""
    data = path.read_bytes()
    found = [f"{path}: {len(data)} bytes, more than {LARGEST}"] if len(data) > LARGEST else []
    lines = data.splitlines() if b"\0" not in data else []
    return found + [
        f"{path}:{number}: names a folder of one machine: {match[0].decode()}"
        for number, line in enumerate(lines, 1)
        if (match := MACHINE.search(line))
    ]


def main() -> None:
    found = [problem for name in sys.argv[1:] if Path(name).is_file() for problem in problems(Path(name))]
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
