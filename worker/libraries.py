"""torch and transformers: what loading a model needs of them, and no more of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from shared.catalog import ModelSpec
from shared.imports import without_collections
from shared.settings import Settings

_COMPILER: Final = "torch._dynamo"
_MASKS: Final = "torch._dynamo._trace_wrapped_higher_order_op"


def load_libraries(spec: ModelSpec, settings: Settings) -> None:
    """Import what loading a model needs: seconds, where the weights take tenths of one.

    Starts no thread and touches no device, so that the process can be forked afterwards.
    """
    # Else asking whether there is a GPU, as transformers does, spoils CUDA for forks.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # Prompts come one at a time: threads of its own would only take the engine's cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with without_collections():
        # What turns out to need more than it is given here is imported with all, when it is used.
        with _without_compiler_and_cluster(), suppress(Exception):
            _import(spec, settings)
        from worker.engine import transformers  # noqa: F401, PLC0415


def _import(spec: ModelSpec, settings: Settings) -> None:
    import torch  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
    )
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_default_handler()  # its lines come in our format, like everybody's
    logging.enable_propagation()
    from worker.engine import transformers  # noqa: F401, PLC0415

    config = AutoConfig.from_pretrained(spec.folder(settings), local_files_only=True)
    # Imports the architecture. What is first done to tensors without memory, as a model's are until
    # its weights are read, asks for the compiler, and would import it where a model is loaded.
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers
    AutoTokenizer.from_pretrained(spec.folder(settings), local_files_only=True)


@contextmanager
def _without_compiler_and_cluster() -> Iterator[None]:
    """Keep transformers from importing torch's compiler and what it has for clusters.

    That is half of what importing it takes. Of the compiler it uses some decorators there, which
    mean nothing to whoever does not compile; afterwards it can be imported as ever. And it
    remembers that there are no clusters, as with a torch that was built without.
    """
    import torch  # noqa: PLC0415
    import torch.distributed  # noqa: PLC0415

    if _COMPILER in sys.modules:
        yield
        return
    compiler, masks = ModuleType(_COMPILER), ModuleType(_MASKS)
    vars(compiler).update(
        __path__=[], allow_in_graph=_as_it_is, assume_constant_result=_as_it_is, disable=_as_it_is
    )
    vars(masks).update(TransformGetItemToIndex=_indexing)
    can_distribute = torch.distributed.is_available
    vars(torch.distributed).update(is_available=lambda: False)
    vars(torch).update(_dynamo=compiler)
    sys.modules.update({_COMPILER: compiler, _MASKS: masks})
    try:
        yield
    finally:
        del sys.modules[_COMPILER], sys.modules[_MASKS]
        del vars(torch)["_dynamo"]
        vars(torch.distributed).update(is_available=can_distribute)


def _as_it_is(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    return function or _as_it_is


def _indexing() -> Any:
    """The compiler's own, should a mask ever be made with it."""
    return import_module(_MASKS).TransformGetItemToIndex()
