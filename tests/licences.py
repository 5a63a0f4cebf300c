"""What foldserve needs when it runs, and its licences: ``make licences`` writes ``docs/licences.md``."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
DISTRIBUTIONS = ("proto", "server", "client")
LONGEST = 80

HEAD = """# Licences of what foldserve needs when it runs

foldserve itself is under Apache-2.0. The tables list every package that its distributions bring with them,
directly or through others, for the machine on which they were made (`make licences`); a test checks that none
is missing. What a package's metadata says is repeated as it is. None of them is part of foldserve's files.

"""


def direct(folder: str) -> dict[str, list[Requirement]]:
    """What one distribution asks for: always (under the empty name), and with each extra."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    lists = {"": project.get("dependencies", []), **extras}
    return {extra: [Requirement(line) for line in lines] for extra, lines in lists.items()}


def needed(requirements: list[Requirement]) -> set[str]:
    """Names of these packages and of those that they need, so far as they are installed here."""
    found: set[str] = set()
    left = list(requirements)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name.startswith("foldserve"):
            continue
        found.add(name)
        left.extend(_needs(name, requirement.extras))
    return found


def licence(name: str) -> str:
    """What the metadata of an installed package says; empty for one that is not installed."""
    try:
        metadata: Any = distribution(name).metadata  # a message of mail, which its type does not say
    except PackageNotFoundError:
        return ""
    classifiers = [one for one in metadata.get_all("Classifier", []) if one.startswith("License ::")]
    told = metadata.get("License-Expression") or ", ".join(one.rpartition(":: ")[2] for one in classifiers)
    first_line = (metadata.get("License") or "").strip().partition("\n")[0]
    return told or first_line[:LONGEST] or "see its files"


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    listed: set[str] = set()
    for folder in DISTRIBUTIONS:
        for extra, requirements in direct(folder).items():
            names = sorted(needed(requirements) - listed)
            listed.update(names)
            if not names:
                continue
            distribution_name = "foldserve" if folder == "server" else f"foldserve-{folder}"
            parts.append(
                f"## {distribution_name}{f'[{extra}]' if extra else ''}\n\n| package | licence |\n|---|---|\n"
            )
            parts.extend(
                f"| {name} | {licence(name) or 'not installed where this was made'} |\n" for name in names
            )
            parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(re.sub(r"\s+", " ", line))
        wanted = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in wanted):
            yield requirement


if __name__ == "__main__":
    PAGE.write_text(page())
