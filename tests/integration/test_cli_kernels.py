"""`minivault models pull` leaves kernels behind, where there is a compiler."""

import json

import pytest
from safetensors.torch import save_file

from tests.support.commands import minivault
from worker.engine.native import kernels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder whose only model is a folder of the operator's."""
    import torch

    monkeypatch.setattr(kernels, "PREBUILT", tmp_path / "prebuilt")
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    save_file({"a": torch.zeros(3)}, model / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVAULT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MINIVAULT_MODELS", "mine")
    assert minivault(monkeypatch, "models", "add", "mine", str(model)) == 0
    return tmp_path / "data" / "models" / ".kernels"


def test_a_pull_compiles_them_once_and_says_so(folder, monkeypatch, capfd) -> None:
    capfd.readouterr()
    assert minivault(monkeypatch, "models", "pull") == 0
    told = capfd.readouterr()
    (path,) = folder.glob("*.so")
    assert told.err == "kernels: Compiling for this CPU\n"
    assert told.out.splitlines()[1] == f"kernels for {path.name.split('-')[0]} are ready in {path}"
    assert minivault(monkeypatch, "models", "pull") == 0
    assert "kernels" not in capfd.readouterr().err
    assert list(folder.glob("*.so")) == [path]


def test_no_compiler_is_no_reason_to_fail(folder, monkeypatch, capfd) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    capfd.readouterr()
    assert minivault(monkeypatch, "models", "pull") == 0
    assert capfd.readouterr().err.splitlines()[-1] == (
        "kernels: CXX names no-such-compiler, which can't be run. Install g++ or clang, or the "
        "Python package ziglang, or set CXX. The eager path serves meanwhile, which is slower."
    )


def test_where_models_run_on_a_gpu_there_are_none(folder, monkeypatch, capfd) -> None:
    monkeypatch.setenv("MINIVAULT_DEVICE", "cuda")
    assert minivault(monkeypatch, "models", "pull") == 0
    assert not folder.exists()


def test_lists_of_models_do_not_show_them(folder, monkeypatch, capfd) -> None:
    assert minivault(monkeypatch, "models", "pull") == 0
    capfd.readouterr()
    assert minivault(monkeypatch, "models", "list", "--json") == 0
    assert ".kernels" not in [row["name"] for row in json.loads(capfd.readouterr().out)]
