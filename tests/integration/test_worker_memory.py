"""What a model is expected to take is what it takes; what does not fit is refused in time."""

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import PathSource, add_model
from shared.configuration import load_settings
from shared.settings import Settings
from tests.support.models import NoText, native_llama, tiny_gemma3, tiny_gpt2, tiny_llama
from worker import memory
from worker.engine.shape import kv_bytes, native_kv_bytes
from worker.memory import Memory, Need
from worker.models import context_of
from worker.stock import Stock

_MIB = 2**20


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_gemma3])
def test_the_cache_s_size_is_known_from_the_configuration(build: Any) -> None:
    from tests.support.engines import slot_engine

    for slots, context in ((8, 256), (3, 100), (1, 17)):
        model = build()
        engine = slot_engine(model, NoText(), slots=slots, context=context)
        config = model.config.get_text_config()
        assert kv_bytes(config, slots, context, 4) == engine.kv_bytes


@pytest.mark.parametrize(
    ("build", "dtype", "size"),
    [
        (tiny_llama, "float32", 4),
        (tiny_llama, "bfloat16", 2),
        (tiny_llama, "auto", 4),
        (native_llama, "bfloat16", 2),
        (native_llama, "int8", 4),  # as they are loaded
        (native_llama, "auto", 4),
    ],
)
def test_weights_count_in_the_numbers_they_are_loaded_in(
    tmp_path: Path, build: Any, dtype: str, size: int
) -> None:
    model = build()
    model.save_pretrained(tmp_path / "tiny")
    settings = load_settings(
        data_dir=tmp_path, dtype=dtype, device="cpu", slots=8, prefix_cache_mb=3
    )
    add_model(settings, "tiny", PathSource(str(tmp_path / "tiny")))
    found = Stock(settings).need("tiny")
    assert found.weights == sum(each.numel() for each in model.parameters()) * size
    assert found.kv_at_once == (found.kv - 3 * _MIB) // 8
    context = context_of(model.config, settings)
    kv = kv_bytes(model.config, 8, context, size)
    if build is native_llama and dtype != "bfloat16":
        kv = native_kv_bytes(model.config, 8, context)
    assert found.kv == kv + 3 * _MIB
    [entry] = [each for each in Stock(settings).entries() if each.name == "tiny"]
    assert entry.ready
    assert entry.memory == found.at_once
    assert entry.bytes == sum(path.stat().st_size for path in (tmp_path / "tiny").iterdir())


def test_a_budget_counts_full_caches_and_free_memory_what_is_taken_at_once() -> None:
    need = Need(weights=100 * _MIB, kv=400 * _MIB, kv_at_once=50 * _MIB)
    budget = Memory(1000 * _MIB, lambda: 0)
    assert budget.lacks(need, []) == 0
    assert budget.lacks(need, [need]) == 128 * _MIB
    assert budget.lacks(need, [need], leaving=[need]) == 0
    free = Memory(0, lambda: 200 * _MIB)
    assert free.lacks(need, [need, need]) == 14 * _MIB
    assert free.lacks(need, [need], leaving=[need]) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_s_limit_counts_and_so_do_those_above_it(
    tmp_path: Path, version: int
) -> None:
    base = tmp_path / "fs" / ("memory" if version == 1 else "")
    group = base / "pod" / "container"
    group.mkdir(parents=True)
    limit, usage, stat = {
        1: (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file 30\ntotal_active_file 20",
        ),
        2: ("memory.max", "memory.current", "inactive_file 30\nactive_file 20"),
    }[version]
    for folder, bytes_allowed in ((group, "1000"), (group.parent, "700")):
        (folder / limit).write_text(f"{bytes_allowed}\n")
        (folder / usage).write_text("600\n")
        (folder / "memory.stat").write_text(f"anon 1\n{stat}\n")
    own = tmp_path / "cgroup"
    own.write_text(f"{'7:memory' if version == 1 else '0:'}:/pod/container\n")
    assert memory._left_in_cgroups(tmp_path / "fs", own) == [450, 150]
    own.write_text("0::/elsewhere\n7:memory:/elsewhere\n")
    assert memory._left_in_cgroups(tmp_path / "fs", own) == []


_REFUSED = """
import resource, sys
import torch, transformers
from shared.configuration import load_settings
from tests.unit.test_loop import Published
from worker.loop import EngineLoop
from worker.memory import available_on_host
from worker.metrics import WorkerMetrics
from worker.models import transformers_loader
from worker.stock import Stock
import psutil, queue

settings = load_settings()
stock = Stock(settings)
loop = EngineLoop(
    loader=lambda name: transformers_loader(stock.catalog(), settings)(name),
    publisher=Published(), metrics=WorkerMetrics(), room=stock,
    accuse=lambda run: None, on_crash=lambda: sys.exit(9),
)
loop.preload("small")
loop.start()
limit = psutil.Process().memory_info().vms + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
outcomes = queue.SimpleQueue()
loop.load("large", outcomes.put)
error = outcomes.get(timeout=60)
print(type(error).__name__, error, loop.loaded)
"""


def test_a_process_with_a_limit_refuses_what_would_break_it(tmp_path: Path) -> None:
    settings: Settings = load_settings(data_dir=tmp_path)
    for name, changes in (("small", {}), ("large", {"vocab_size": 800_000})):
        tiny_llama(**changes).save_pretrained(tmp_path / name)
        _tokenizer().save_pretrained(tmp_path / name)
        add_model(settings, name, PathSource(str(tmp_path / name)))
    environment = os.environ | {"MINIVAULT_DATA_DIR": str(tmp_path), "MINIVAULT_SLOTS": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", _REFUSED],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "ModelTooLargeError The model large needs 0.4" in ran.stdout
    assert ran.stdout.rstrip().endswith("('small',)")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {chr(code): code for code in range(256)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), eos_token="b"
    )


def test_files_that_are_mapped_count_as_taken(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(_MIB) * 64)
    before = memory._mapped()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))
        assert memory._mapped() - before > 60 * _MIB
    assert memory._mapped() - before < 4 * _MIB
