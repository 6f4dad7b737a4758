"""From a catalog name to an engine that is ready to generate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from shared.catalog import Catalog, ModelSpec
from shared.errors import (
    InvalidPromptError,
    ModelUnavailableError,
    NoChatTemplateError,
    PromptTooLongError,
)
from shared.job import GenerationRequest, Message
from shared.settings import Settings
from worker.engine.base import Engine

SUPPORTED_LAYERS: Final = {"full_attention", "sliding_attention"}


class PromptEncoder(Protocol):
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """The prompt as the model sees it.

        Raises:
            PromptTooLongError: it has more tokens than a slot may be given.
            NoChatTemplateError: it is a conversation, and the model knows none.
            InvalidPromptError: its template refuses the conversation, or a token is none.
        """
        ...


@dataclass(frozen=True)
class LoadedModel:
    name: str
    engine: Engine
    prompts: PromptEncoder


Loader: TypeAlias = Callable[[str], LoadedModel]
"""Loads a model by its catalog name; blocks. Raises ModelUnavailableError."""


class ChatPrompts:
    """Prompts through the model's own chat template, if it has one."""

    def __init__(self, tokenizer: Any, max_tokens: int, vocabulary: int) -> None:
        """`vocabulary` is how many tokens the model has embeddings for."""
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        ids = self._ids(request)
        if len(ids) > self._max_tokens:
            raise PromptTooLongError(
                f"The prompt has {len(ids)} tokens; at most {self._max_tokens} are accepted."
            )
        # Some tokenizers make nothing of white space; a model needs something to begin with.
        return tuple(ids) or (self._tokenizer.eos_token_id,)

    def _ids(self, request: GenerationRequest) -> Sequence[int]:
        if request.prompt_ids:
            if max(request.prompt_ids) >= self._vocabulary:
                raise InvalidPromptError(f"The model's tokens are 0 to {self._vocabulary - 1}.")
            return request.prompt_ids
        if request.messages:
            if not self._tokenizer.chat_template:
                raise NoChatTemplateError
            return self._templated(request.messages)
        if request.raw or not self._tokenizer.chat_template:
            return self._tokens(self._tokenizer(request.prompt))
        return self._templated((Message("user", request.prompt),))

    def _templated(self, messages: Sequence[Message]) -> Sequence[int]:
        from jinja2 import TemplateError  # noqa: PLC0415  (transformers brings it)

        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in messages],
                add_generation_prompt=True,
                tokenize=False,
            )
        except TemplateError as error:
            raise InvalidPromptError(f"The model's chat template refuses it: {error}") from error
        # The template has written the special tokens already.
        return self._tokens(self._tokenizer(text, add_special_tokens=False))

    def _tokens(self, encoding: Any) -> Sequence[int]:
        ids: Sequence[int] = encoding["input_ids"]
        return ids


class PlainDecoder:
    """A tokenizer's `decode` with nothing but the text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def load_libraries(spec: ModelSpec, settings: Settings) -> None:
    """Import what loading a model needs: seconds, where the weights take tenths of one.

    Starts no thread and touches no device, so that the process can be forked afterwards.
    """
    # Else asking whether there is a GPU, as transformers does, spoils CUDA for forks.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    from transformers import (  # noqa: PLC0415
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoTokenizer,
    )
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_default_handler()  # its lines come in our format, like everybody's
    logging.enable_propagation()
    from worker.engine import transformers  # noqa: F401, PLC0415

    try:
        config = AutoConfig.from_pretrained(spec.folder(settings), local_files_only=True)
        MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # imports the architecture
        AutoTokenizer.from_pretrained(spec.folder(settings), local_files_only=True)
    except Exception:  # noqa: BLE001  (loading the model says what is wrong with it)
        return


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
        decoder, eos_ids = PlainDecoder(tokenizer), _eos_ids(model)
        engine = TransformersEngine(
            model,
            decoder=decoder,
            vocabulary=vocabulary_of(tokenizer, decoder, eos_ids, embeddings.num_embeddings),
            eos_ids=eos_ids,
            slots=settings.slots,
            context=context,
            prefill_chunk=settings.prefill_chunk,
            prefix_bytes=settings.prefix_cache_mb * 2**20,
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
    """Where models run, and in which numbers: a torch.device and a torch.dtype."""
    import torch  # noqa: PLC0415

    name = settings.device
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
    if settings.dtype != "auto":
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
