"""Kernels with a real compiler: made once, whole or not there, by whoever comes first."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import structlog

from shared.errors import KernelsUnavailableError
from tests.support.poll import until
from worker.engine.native import compiler, isa, kernels, library, watch
from worker.engine.native.background import prepare
from worker.engine.native.kernels import Kernels, digest

STRICT = (
    *("-Wall", "-Wextra", "-Werror"),
    # g++ 12 warns of its own intrinsics, which use what is undefined on purpose.
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"),
)


@pytest.fixture(autouse=True)
def nothing_prebuilt(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "PREBUILT", tmp_path / "prebuilt")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "models" / ".kernels"


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)


@pytest.fixture
def slow_compiler(tmp_path, monkeypatch) -> Path:
    """A compiler that says in a file that it was started, then never ends; as a child's child."""
    started = tmp_path / "started"
    script = tmp_path / "slow-c++"
    script.write_text(
        f"#!/bin/sh\nsh -c 'echo $$ > {started}.new; mv {started}.new {started}; exec sleep 600'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return started


@pytest.fixture
def stand_in_compiler(tmp_path, monkeypatch) -> Path:
    """One that gives what the real one has made; not for `-mnew`. Its runs are lines of a file."""
    made = tmp_path / "made"
    made.mkdir()
    library_made = compiler.compile_into(made, isa.of_this_machine()[-1])
    runs = tmp_path / "runs"
    script = tmp_path / "stand-in-c++"
    script.write_text(f"""#!/bin/sh
case "$*" in *-mnew*) echo "error: unrecognized option -mnew" >&2; exit 1;; esac
echo run >> {runs}
while [ "$1" != -o ]; do shift; done
cp {library_made} "$2"
""")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return runs


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def silent(stage: str) -> None:
    pass


@pytest.mark.parametrize("level", isa.levels(), ids=lambda level: level.name)
def test_every_level_compiles_without_a_warning(level, tmp_path) -> None:
    made = compiler.compile_into(tmp_path, level, extra=STRICT)
    assert made.stat().st_size > 0
    if level in isa.of_this_machine():
        assert library.load(made).mv_abi() == library.ABI


def test_compiled_once_then_found(cache) -> None:
    told: list[str] = []
    assert Kernels(cache).find() is None
    made = Kernels(cache).build(told.append)
    assert library.load(made.path).mv_abi() == library.ABI
    assert (made.source, made.level) == ("compiled", isa.of_this_machine()[0].name)
    assert told == ["Compiling kernels for this CPU"]
    for found in (Kernels(cache).find(), Kernels(cache).build(told.append)):
        assert found is not None
        assert (found.path, found.source) == (made.path, "cache")
    assert len(told) == 1
    assert contents(cache) == [made.path.name]


def test_what_an_image_carries_needs_no_compiler(cache, request) -> None:
    kernels.PREBUILT.mkdir()
    path = kernels.make(isa.of_this_machine()[0], kernels.PREBUILT)
    request.getfixturevalue("no_compiler")
    found = Kernels(cache).find()
    assert found is not None
    assert (found.path, found.source) == (path, "prebuilt")
    assert not cache.exists()


def test_a_damaged_library_is_made_anew_not_loaded(cache) -> None:
    path = Kernels(cache).build(silent).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert Kernels(cache).find() is None
    again = Kernels(cache).build(silent)
    assert again.source == "compiled"
    assert library.load(again.path).mv_abi() == library.ABI
    assert contents(cache) == [again.path.name]


def test_other_sources_are_another_library(cache, tmp_path, monkeypatch) -> None:
    old = Kernels(cache).build(silent).path
    sources = tmp_path / "src"
    sources.mkdir()
    for source in compiler.sources():
        (sources / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(compiler, "SOURCES", sources)
    assert Kernels(cache).find() is not None  # the same sources elsewhere
    with (sources / "abi.cpp").open("a") as file:
        file.write("// changed\n")
    assert Kernels(cache).find() is None
    new = Kernels(cache).build(silent).path
    assert contents(cache) == [new.name] != [old.name]


def test_headers_and_flags_count_too(tmp_path, monkeypatch) -> None:
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "abi.cpp").write_text('#include "abi.h"\n')
    monkeypatch.setattr(compiler, "SOURCES", sources)
    level = isa.levels()[-1]
    seen = {digest(level)}
    (sources / "abi.h").write_text("// one\n")
    seen.add(digest(level))
    (sources / "abi.h").write_text("// two\n")
    seen.add(digest(level))
    assert len(seen) == 3
    assert len({digest(level) for level in isa.levels("linux", "x86_64")}) == 4


def test_two_processes_at_once_compile_once(cache, stand_in_compiler) -> None:
    code = (
        "import sys; from pathlib import Path; from worker.engine.native.kernels import Kernels\n"
        "sys.stdin.read(); print(Kernels(Path(sys.argv[1])).build(lambda stage: None).source)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        process.stdin.close()
        process.stdin = None
    assert sorted(process.communicate()[0] for process in both) == ["cache\n", "compiled\n"]
    assert stand_in_compiler.read_text() == "run\n"


def test_a_killed_process_takes_its_compiler_along_and_leaves_nothing(
    cache, slow_compiler, monkeypatch
) -> None:
    code = (
        "import sys; from pathlib import Path; from worker.engine.native.kernels import Kernels\n"
        "Kernels(Path(sys.argv[1])).build(lambda stage: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(cache)]) as process:
        try:
            until(slow_compiler.exists, seconds=60)
            compiling = psutil.Process(int(slow_compiler.read_text()))
            nice = compiling.nice()
        finally:
            process.kill()
    assert nice == min(psutil.Process().nice() + 10, 19)
    until(lambda: not compiling.is_running() or compiling.status() == psutil.STATUS_ZOMBIE)
    assert Kernels(cache).find() is None
    monkeypatch.delenv("CXX")
    made = Kernels(cache).build(silent)
    assert contents(cache) == [made.path.name]


def test_a_compiler_that_hangs_is_ended(slow_compiler, tmp_path) -> None:
    with pytest.raises(KernelsUnavailableError, match=r"slow-c\+\+ took more than 0\.5 s"):
        compiler.compile_into(tmp_path, isa.levels()[-1], seconds=0.5)


def test_an_old_compiler_makes_the_level_below(cache, stand_in_compiler) -> None:
    newest = isa.Level("newest", ("-mnew",), "new", frozenset())
    made = Kernels(cache, (newest, isa.levels()[-1])).build(silent)
    assert made.level == isa.levels()[-1].name
    with pytest.raises(KernelsUnavailableError, match="for newest: error: unrecognized option"):
        Kernels(cache, (newest,)).build(silent)


def test_without_a_compiler_there_is_one_line_that_says_what_to_do(cache, no_compiler) -> None:
    with structlog.testing.capture_logs() as lines:
        error = prepare(Kernels(cache)).exception(timeout=10)
    assert isinstance(error, KernelsUnavailableError)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("kernels unavailable", "warning")
    assert line["reason"] == (
        "There is no C++ compiler here. Install g++ or clang, or the Python package "
        "ziglang, or set CXX. The eager path serves meanwhile, which is slower."
    )


def test_a_folder_that_cannot_be_made_is_one_line_too(tmp_path) -> None:
    (tmp_path / "file").touch()
    with structlog.testing.capture_logs() as lines:
        error = prepare(Kernels(tmp_path / "file" / ".kernels")).exception(timeout=10)
    assert "can't be written" in str(error)
    assert [line["log_level"] for line in lines] == ["warning"]


def test_a_warm_start_has_them_before_the_first_step(cache) -> None:
    assert prepare(Kernels(cache)).result(timeout=60).mv_abi() == library.ABI
    with structlog.testing.capture_logs() as lines:
        ready = prepare(Kernels(cache))
    assert ready.done()
    assert [(line["event"], line["source"]) for line in lines] == [("kernels ready", "cache")]


def test_a_library_for_other_callers_is_refused(cache, monkeypatch) -> None:
    path = Kernels(cache).build(silent).path
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    with pytest.raises(KernelsUnavailableError, match="has ABI"):
        library.load(path)


def test_the_watch_passes_on_how_its_command_ended() -> None:
    def code(*command: str) -> int:
        with subprocess.Popen(
            [sys.executable, "-I", watch.__file__, "60", *command], stdin=subprocess.PIPE
        ) as process:
            return process.wait()

    assert code("sh", "-c", "exit 3") == 3
    assert code("sh", "-c", "kill -9 $$") == 128 + signal.SIGKILL
