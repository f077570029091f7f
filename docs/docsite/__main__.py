"""Build the documentation site: ``python -m docsite``, in ``docs/``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from docsite.staging import ROOT, stage


def main(folder: Path) -> int:
    """Stage all pages below a folder, build the site in its ``site/``, and return the exit code."""
    settings = stage(folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    code = subprocess.run([*command, "--config-file", settings], check=False).returncode
    if code == 0:
        print(f"Open {folder / 'site' / 'index.html'}")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docsite", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "docs", help="a folder")
    sys.exit(main(parser.parse_args().into.resolve()))
