"""From a catalog name to an engine that is ready to generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shared.catalog import Catalog, ModelSpec
from shared.errors import ModelUnavailableError
from shared.settings import Settings
from worker.engine.base import Engine
from worker.engine.decoder import decoder_of
from worker.prompts import ChatPrompts, PromptEncoder

SUPPORTED_LAYERS: Final = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class LoadedModel:
    name: str
    engine: Engine
    prompts: PromptEncoder


Loader: TypeAlias = Callable[[str], LoadedModel]
"""Loads a model by its catalog name; blocks. Raises ModelUnavailableError."""


def transformers_loader(catalog: Catalog, settings: Settings) -> Loader:
    """A loader of converted models from the model folder."""
    return lambda name: _load(catalog[name], settings)


def _load(spec: ModelSpec, settings: Settings) -> LoadedModel:
    from transformers import (  # noqa: PLC0415  (takes seconds)
        AutoModelForCausalLM,
        AutoTokenizer,
    )
    from transformers.utils import logging  # noqa: PLC0415

    from worker import model_files  # noqa: PLC0415
    from worker.engine import attention  # noqa: PLC0415
    from worker.engine.transformers import TransformersEngine  # noqa: PLC0415
    from worker.engine.vocabulary import vocabulary_of  # noqa: PLC0415
    from worker.paths import forward_of  # noqa: PLC0415

    model_files.verify(spec, settings)
    folder = spec.folder(settings)
    device, dtype = device_and_dtype(settings)
    attention.register()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # nobody watches a log
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention.NAME,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        _check_architecture(spec.name, model)
        model.requires_grad_(requires_grad=False).to(device)
        context = context_of(model.config.get_text_config(), settings)
        embeddings: Any = model.get_input_embeddings()
        decoder, eos_ids = decoder_of(tokenizer), _eos_ids(model)
        forward, successor = forward_of(model, settings, context=context)
        engine = TransformersEngine(
            forward,
            decoder=decoder,
            vocabulary=vocabulary_of(tokenizer, decoder, eos_ids, embeddings.num_embeddings),
            eos_ids=eos_ids,
            slots=settings.slots,
            context=context,
            prefill_chunk=settings.prefill_chunk,
            prefix_bytes=settings.prefix_cache_mb * 2**20,
            successor=successor,
        )
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(f"Model {spec.name!r} can't be loaded: {error}") from error
    prompts = ChatPrompts(
        tokenizer,
        max_tokens=min(settings.max_prompt_tokens, context - 1),
        vocabulary=embeddings.num_embeddings,
    )
    return LoadedModel(name=spec.name, engine=engine, prompts=prompts)


def device_and_dtype(settings: Settings) -> tuple[Any, Any]:
    """Where models run, and in which numbers: a torch.device and a torch.dtype.

    Weights that will be int8 are loaded, and computed with meanwhile, as on a CPU without it.
    """
    import torch  # noqa: PLC0415

    name = settings.device
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
    if settings.dtype not in ("auto", "int8"):
        return torch.device(name), getattr(torch, settings.dtype)
    return torch.device(name), torch.float32 if name == "cpu" else torch.bfloat16


def _check_architecture(name: str, model: Any) -> None:
    """Refuse what the slot cache can't hold, before it generates nonsense."""
    kind = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelUnavailableError(
            f"Model {name!r} can't be served: {kind} brings an attention of its own."
        )
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ()) - SUPPORTED_LAYERS
    if layers:
        raise ModelUnavailableError(
            f"Model {name!r} can't be served: {kind} has {', '.join(sorted(layers))} layers."
        )


def context_of(config: Any, settings: Settings) -> int:
    """Tokens that fit a slot: what the settings allow, within what the model was made for."""
    wanted = settings.max_prompt_tokens + settings.max_tokens
    return min(wanted, getattr(config, "max_position_embeddings", None) or wanted)


def _eos_ids(model: Any) -> set[int]:
    eos = model.generation_config.eos_token_id
    if eos is None:
        return set()
    return set(eos) if isinstance(eos, list) else {eos}
