"""Prompts and conversations to token ids and back, as a model has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from shared.catalog import Catalog
from shared.errors import (
    InvalidPromptError,
    ModelUnavailableError,
    NoChatTemplateError,
    PromptTooLongError,
)
from shared.job import GenerationRequest, Message
from shared.settings import Settings


class PromptEncoder(Protocol):
    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """The prompt as the model sees it.

        Raises:
            PromptTooLongError: it has more tokens than a slot may be given.
            NoChatTemplateError: it is a conversation, and the model knows none.
            InvalidPromptError: its template refuses the conversation, or a token is none.
        """
        ...


class Asked(Protocol):
    """What `GenerationRequest` and `Tokenize` have in common."""

    @property
    def prompt(self) -> str: ...
    @property
    def messages(self) -> tuple[Message, ...]: ...
    @property
    def raw(self) -> bool: ...


class Tokenizer(Protocol):
    def tokens(self, asked: Asked, *, add_special: bool = True) -> Sequence[int]:
        """As `PromptEncoder.encode`, of any length.

        `add_special`: a raw prompt gets what the tokenizer puts around one.
        """
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What they stand for, special tokens included.

        Raises:
            InvalidPromptError: one of them is none.
        """
        ...


TokenizerLoader: TypeAlias = Callable[[str], Tokenizer]
"""Loads a model's tokenizer by its catalog name; blocks. Raises ModelUnavailableError."""


class ChatPrompts:
    """Prompts through the model's own chat template, if it has one."""

    def __init__(self, tokenizer: Any, max_tokens: int, vocabulary: int) -> None:
        """`vocabulary` is how many tokens the model has embeddings for."""
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        ids: Sequence[int] = request.prompt_ids
        if ids:
            self._check(ids)
        else:
            ids = self.tokens(request)
        if len(ids) > self._max_tokens:
            raise PromptTooLongError(
                f"The prompt has {len(ids)} tokens; at most {self._max_tokens} are accepted."
            )
        return tuple(ids)

    def tokens(self, asked: Asked, *, add_special: bool = True) -> Sequence[int]:
        if asked.messages:
            if not self._tokenizer.chat_template:
                raise NoChatTemplateError
            ids = self._templated(asked.messages)
        elif asked.raw or not self._tokenizer.chat_template:
            ids = self._encoded(asked.prompt, add_special=add_special)
        else:
            ids = self._templated((Message("user", asked.prompt),))
        # Some tokenizers make nothing of white space; a model needs something to begin with.
        return ids or (self._tokenizer.eos_token_id,)

    def text(self, tokens: Sequence[int]) -> str:
        self._check(tokens)
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

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
        return self._encoded(text, add_special=False)

    def _encoded(self, text: str, *, add_special: bool) -> Sequence[int]:
        ids: Sequence[int] = self._tokenizer(text, add_special_tokens=add_special)["input_ids"]
        return ids

    def _check(self, tokens: Sequence[int]) -> None:
        if tokens and max(tokens) >= self._vocabulary:
            raise InvalidPromptError(f"The model's tokens are 0 to {self._vocabulary - 1}.")


def tokenizer_loader(catalog: Catalog, settings: Settings) -> TokenizerLoader:
    """A loader of tokenizers alone, from the model folder."""

    def load(name: str) -> Tokenizer:
        from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415  (takes seconds)

        folder = catalog[name].folder(settings)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelUnavailableError(
                f"The tokenizer of model {name!r} can't be loaded: {error}"
            ) from error
        return ChatPrompts(
            tokenizer,
            max_tokens=settings.max_prompt_tokens,
            vocabulary=config.get_text_config().vocab_size,
        )

    return load
