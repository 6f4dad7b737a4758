"""What a worker imports before it forks, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.models import tiny_gemma3, tiny_gpt2, tiny_llama

_LOAD = """
import gc, sys
from pathlib import Path
from shared.catalog import ModelSpec, PathSource
from shared.settings import Settings
from worker.libraries import load_libraries

settings = Settings(data_dir=sys.argv[2])
spec = ModelSpec(name="tiny", source=PathSource(sys.argv[1]))
load_libraries(spec, settings)
heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor")
assert "transformers.modeling_utils" in sys.modules
assert not [name for name in heavy if name in sys.modules]
assert gc.isenabled()

import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert not [name for name in heavy if name in sys.modules]
ids = torch.arange(3, 40)[None]
mask = torch.ones_like(ids)
mask[0, :5] = 0
print(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)[0].tolist())

import torch._dynamo
assert torch._dynamo.allow_in_graph and torch.distributed.is_available()
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
"""


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_gemma3])
def test_neither_compiler_nor_cluster_is_imported_and_nothing_misses_them(
    make: object, tmp_path: Path, settings: Settings
) -> None:
    import torch

    assert callable(make)
    model = make()
    model.save_pretrained(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path / "tiny"), str(tmp_path / "data")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ids = torch.arange(3, 40)[None]
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert done.stdout == f"{expected[0].tolist()}\n"
