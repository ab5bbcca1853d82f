"""Is the evalgpt that Python imports this folder, file by file? A strict editable install links files when it is made.

python .ci/installed.py
"""

import configparser
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def differences() -> list[str]:
    """Folders that setup.cfg does not list; else files that the installation lacks, has otherwise, or keeps."""
    spec = importlib.util.find_spec("evalgpt")
    if spec is None or spec.origin is None:
        return ["evalgpt is not installed"]
    package = Path(spec.origin).parent
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    places = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    listed = config["options"]["packages"].split()
    found = {
        ".".join((name, *path.relative_to(ROOT / folder).parts[:-1])): path.parent
        for name, folder in places.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    if unlisted := [name for name in sorted(found) if name not in listed]:
        return [
            f"{found[name].relative_to(ROOT)}/ is not installed: add the line {name} to packages in setup.cfg"
            for name in unlisted
        ]
    if bare := [folder for folder in found.values() if not (folder / "__init__.py").exists()]:
        return [f"{folder.relative_to(ROOT)}/ has no __init__.py" for folder in bare]
    wanted = {
        package.joinpath(*name.split(".")[1:]) / path.relative_to(ROOT / folder): path
        for name, folder in places.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    lacking = [path for link, path in wanted.items() if not link.exists() or not link.samefile(path)]
    gone = [link for link in package.rglob("*.py") if link not in wanted]
    return [f"{path} is not what is installed" for path in lacking] + [f"{link} is left over" for link in gone]


def main() -> None:
    found = differences()
    sys.exit("\n".join([*found[:5], "run make develop: what would be tested is not this folder"]) if found else 0)


if __name__ == "__main__":
    main()
