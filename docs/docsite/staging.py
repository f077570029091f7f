"""The pages of the site in one folder, as the generator takes them.

Pages keep the places that they have in the repository, so that links between them stay as they
are. A link to any other file leads to a page that shows the file, for the site is read without the
repository. ``<!-- insert: NAME -->`` on a page is replaced by what is generated.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from docsite import arguments, commands, gallery, scenario_keys
from holdfast.continual.results.formatting import fenced

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PAGES = (
    "*.md",
    "docs/*.md",
    "runs/README.md",
    "benchmarks/README.md",
    "scenarios/custom_env/README.md",
)
INSERTED: dict[str, Callable[[], str]] = {
    "keys": scenario_keys.page,
    "arguments": arguments.page,
    "commands": commands.page,
    "gallery": gallery.overview,
}
_PICTURES = (".png", ".svg")
_FENCED = re.compile(r"(^ *```.*?^ *```)", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?\)")
_INSERT = re.compile(r"<!-- insert: (\w+) -->")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}


def pages() -> list[Path]:
    """Return the pages that are written by hand, as paths in the repository."""
    found = (path for pattern in PAGES for path in sorted(ROOT.glob(pattern)))
    return [path.relative_to(ROOT) for path in found]


def stage(folder: Path) -> Path:
    """Write all that the generator takes into a folder, and return the file of its settings."""
    source = folder / "source"
    for old in (source, folder / "site"):
        shutil.rmtree(old, ignore_errors=True)
    written = Staged(source)
    for page in pages():
        written.add(page, inserted((ROOT / page).read_text("utf-8")))
    for name, text in gallery.scenario_pages().items():
        written.add(Path(name), text)
    for name in ("iframe-worker.js", "site.css"):
        shutil.copy(HERE / name, source / name)
    (source / "charts.css").write_text(gallery.style_sheet(), "utf-8")
    settings = folder / "zensical.toml"
    text = (HERE / "zensical.toml").read_text("utf-8")
    settings.write_text(text.replace("SRC", (ROOT / "src").as_posix()), "utf-8")
    return settings


def inserted(text: str) -> str:
    """Return a page with what is generated in place of its marks."""
    return _INSERT.sub(lambda mark: INSERTED[mark[1]](), text)


class Staged:
    """Pages below a folder, each with the files that it links to."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.by_hand = set(pages())
        self.shown: set[Path] = set()

    def add(self, page: Path, text: str) -> None:
        """Write a page, named by its path in the repository, and pages of what it links to."""
        parts = _FENCED.split(text)
        parts[::2] = [self._linked(page, part) for part in parts[::2]]
        self._write(page, "".join(parts))

    def _linked(self, page: Path, text: str) -> str:
        def replaced(link: re.Match[str]) -> str:
            if ":" in link[2]:
                return link[0]
            target = Path(os.path.normpath(page.parent / link[2]))
            place = os.path.relpath(self._place(target), page.parent)
            return f"{link[1]}{Path(place).as_posix()}{link[3] or ''})"

        return _LINK.sub(replaced, text)

    def _place(self, target: Path) -> Path:
        """Return where a path of the repository is on the site; show it there if nothing does."""
        if target == Path("scenarios"):
            return Path("docs/gallery.md")
        if target in self.by_hand:
            return target
        if target / "README.md" in self.by_hand:
            return target / "README.md"
        file = ROOT / target
        if file.suffix in _PICTURES:
            self._copy(target)
            return target
        if not file.exists():  # a page that is generated, or a mistake that the generator tells
            return target
        place = target / "README.md" if file.is_dir() else target.with_name(target.name + ".md")
        if target not in self.shown and not gallery.is_shipped(file):
            self.shown.add(target)
            name = target.as_posix()
            head = f"---\ntitle: {name}\nsearch: {{exclude: true}}\n---\n"
            self._write(place, f"{head}# `{name}`\n\n{_content(file)}\n")
        return place

    def _copy(self, picture: Path) -> None:
        (self.source / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / picture, self.source / picture)

    def _write(self, page: Path, text: str) -> None:
        (self.source / page).parent.mkdir(parents=True, exist_ok=True)
        (self.source / page).write_text(text, "utf-8")


def _content(file: Path) -> str:
    """Return what a file holds, or the names of what is in a folder."""
    if file.is_dir():
        return "\n".join(f"- `{name}`" for name in _names(file))
    return fenced(file.read_text("utf-8"), _LANGUAGES.get(file.suffix, ""))


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(("_", ".")):
            yield path.name + ("/" if path.is_dir() else "")
