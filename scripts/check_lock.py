"""Hold constraints.txt to what is installed, and the repository to naming no registry.

Fails if a dependency of `minivault[dev]` is installed at a version the file does not pin, if
the file pins something that is no dependency, or if a tracked file names a package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = "minivault[dev]"
# Hosts of indexes, and options or settings that hand pip a literal URL.
_REGISTRY = re.compile(
    r"""py(?:pi|thonhosted)\.[a-z]{2,}
      | https?://[^\s'"]*/(?:simple|whl)\b
      | (?:index[-_]url|find[-_]links|trusted[-_]host)\s*[=\s]\s*['"]?https?://""",
    re.VERBOSE | re.IGNORECASE,
)


def main() -> int:
    pins = dict(_pins(ROOT / "constraints.txt"))
    problems = [*_lock_problems(pins), *_registry_problems()]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"lock: {len(pins)} pins, {len(problems)} problems")
    return 1 if problems else 0


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            name, _, pinned = text.partition("==")
            yield canonicalize_name(name), pinned


def _lock_problems(pins: dict[str, str]) -> Iterator[str]:
    installed, exact, mentioned = _closure()
    for name, found in sorted(installed.items()):
        if name not in pins and name not in exact:
            yield f"constraints.txt does not pin {name}=={found}"
        elif name in pins and pins[name] != found:
            yield f"constraints.txt pins {name}=={pins[name]}, but {found} is installed"
    for name in sorted(pins.keys() - mentioned):
        yield f"constraints.txt pins {name}, which is no dependency of {PROJECT}"


def _closure() -> tuple[dict[str, str], set[str], set[str]]:
    """What the project needs: public versions by name, and two sets of names.

    The first set holds names that a dependent pins itself with `==`, as torch does with its
    CUDA libraries: the dependent's own pin locks those. The second holds names that are
    needed here or on another platform.
    """
    installed: dict[str, str] = {}
    exact: set[str] = set()
    mentioned: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(PROJECT)]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        try:
            installed[name] = Version(version(name)).public
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed. Run make check, which installs it.")
        if any(part.operator == "==" and "*" not in part.version for part in wanted.specifier):
            exact.add(name)
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for need in _needs(name, extra):
                mentioned.add(canonicalize_name(need.name))
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    waiting.append(need)
    del installed["minivault"]
    return installed, exact, mentioned


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    """Requirements that come with `extra` ("" for those that always come), on any platform."""
    for line in requires(name) or ():
        need = Requirement(line)
        named = re.search(r"extra == .([\w.-]+)", str(need.marker or ""))
        if canonicalize_name(named[1] if named else "") == canonicalize_name(extra):
            yield need


def _registry_problems() -> Iterator[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if match := _REGISTRY.search(line):
                yield f"{name}:{number} names a registry: {match[0]}"


if __name__ == "__main__":
    sys.exit(main())
