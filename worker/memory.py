"""What a model needs of the memory, and whether it is there: asked before anything is loaded."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from shared.errors import ModelTooLargeError

SCRATCH: Final = 64 * 2**20
"""What a pass computes with on a CPU, in bytes."""
_CGROUP: Final = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """Bytes."""

    weights: int
    kv: int
    """The KV cache, full, and what is kept of prompts gone by."""
    kv_at_once: int
    """The part of it that is taken when the model is loaded: on a GPU all, on a CPU one slot."""
    scratch: int = SCRATCH
    """What a pass computes with."""

    @property
    def at_once(self) -> int:
        return self.weights + self.kv_at_once + self.scratch

    @property
    def full(self) -> int:
        return self.weights + self.kv + self.scratch


class Memory:
    """Where models go. From the engine's thread."""

    def __init__(self, budget: int, available: Callable[[], int]) -> None:
        """`budget` in bytes; 0: whatever is `available` at the time."""
        self._budget = budget
        self._available = available

    def lacks(self, need: Need, resident: Iterable[Need], leaving: Iterable[Need] = ()) -> int:
        """Bytes that are missing for one more model beside the resident ones; 0: it fits.

        `leaving` are those of the resident ones that could make room.
        """
        going = list(leaving)
        if self._budget:
            staying = sum(each.full for each in resident) - sum(each.full for each in going)
            return max(0, need.full + staying - self._budget)
        # What their KV caches have taken comes on top; it is not counted on.
        return max(0, need.at_once - self._available() - sum(each.weights for each in going))

    def refusal(self, name: str, need: Need, lacking: int) -> ModelTooLargeError:
        if self._budget:
            held = f"MINIVAULT_MODEL_MEMORY leaves it {_show(need.full - lacking)}"
            return ModelTooLargeError(
                f"The model {name} needs {_show(need.full)} ({_show(need.weights)} weights, "
                f"{_show(need.kv)} KV cache); {held}."
            )
        return ModelTooLargeError(
            f"The model {name} needs {_show(need.at_once)} to begin with ({_show(need.weights)} "
            f"weights); the worker has {_show(need.at_once - lacking)} for it. Its KV cache may "
            f"grow to {_show(need.kv)}."
        )


def available_on_host() -> int:
    """Bytes that this process can still get: of the machine, its control groups, its own limit."""
    # The kernel calls what is mapped from files free to reuse, and so the weights in use, too.
    mapped = _mapped()
    free = [left - mapped for left in (psutil.virtual_memory().available, *_left_in_cgroups())]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(free))


def available_on_gpu() -> int:
    """Bytes free on the current GPU, and those that torch keeps of models that have gone."""
    import torch  # noqa: PLC0415

    free, _ = torch.cuda.mem_get_info()
    return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _mapped(status: Path = Path("/proc/self/status")) -> int:
    """Bytes of files that this process has in memory: weights and libraries."""
    try:
        found = re.search(r"^RssFile:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        return 0
    return int(found[1]) * 1024 if found else 0


def _left_in_cgroups(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group above this process leaves it, in either version's files."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, files = root, ("memory.max", "memory.current")
        elif controllers == "memory":
            base, files = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # A container sees its own group as the root, whatever the path says.
        group = base / path.lstrip("/")
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            left += _left_in(folder, *files)
    return left


def _left_in(folder: Path, limit_file: str, usage_file: str) -> list[int]:
    try:
        limit = (folder / limit_file).read_text().strip()
        usage = int((folder / usage_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if limit == "max":
        return []
    # Files that the kernel keeps and can let go of, once nobody has them mapped.
    kinds = ("active_file", "inactive_file")
    cached = sum(int(stat.get(f"total_{kind}", stat.get(kind, 0))) for kind in kinds)
    return [int(limit) - usage + cached]


def _show(count: int) -> str:
    return f"{max(0, count) / 2**30:.2f} GiB"
