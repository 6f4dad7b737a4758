"""What `POST /v1/responses` takes. Ranges are checked here and nowhere behind."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from api.draft import Draft
from api.fields import MaxTokens, Priority, Seed, Stop, TopK, UpTo20
from api.openai.body import ONLY_STREAMS_HAVE_OPTIONS, bounded
from api.openai.content import checked
from api.openai.fields import STRICT, refused
from api.openai.responses import note
from api.openai.responses.inputs import Input
from api.openai.responses.note import ResponseNote
from api.openai.responses.text import TextConfig
from api.schemas import fingerprint
from shared.job import Message, SamplingParams, new_seed

LOGPROBS: Final = "message.output_text.logprobs"

_EXAMPLE: Final[JsonDict] = {
    "input": "What is the capital of England?",
    "max_output_tokens": 64,
    "background": True,
}
_BACKGROUND_IS_STORED: Final[JsonDict] = {
    "anyOf": [
        {"properties": {"store": {"enum": [None, True]}}},
        {"properties": {"background": {"enum": [None, False]}}},
    ]
}
"""For readers of the schema, as `ONLY_STREAMS_HAVE_OPTIONS`."""
_MAX_PAIRS: Final = 16
_NO_TOOLS: Final = "No tools are called here."

_Label = Annotated[str, Field(max_length=512)]
_Key = Annotated[str, Field(max_length=64)]


class ResponseStreamOptions(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    include_obfuscation: bool | None = Field(
        None,
        description="Deltas are padded to sizes that say little about the text. Absent: they are "
        "not.",
    )


class ResponseCacheOptions(BaseModel):
    model_config: ClassVar[ConfigDict] = STRICT

    mode: Literal["implicit", "explicit"] | None = None
    ttl: str | None = None
    comparison_response_id: Annotated[None, refused("Caching is not diagnosed.")] = None
    prewarm: Annotated[None, refused("Every request generates.", False)] = None


class ResponseBody(BaseModel):
    """OpenAI's fields, and at the end our own. Only `input` is required."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        **STRICT,
        json_schema_extra={
            "examples": [_EXAMPLE],
            "allOf": [ONLY_STREAMS_HAVE_OPTIONS, _BACKGROUND_IS_STORED],
        },
    )

    input: Input = Field(description="What the model answers.")
    model: str | None = Field(
        None, description="A name from `GET /v1/models`. Absent: the default model."
    )
    instructions: Annotated[str, AfterValidator(checked)] | None = Field(
        None, description="A system message in front of everything, of this response alone."
    )
    previous_response_id: str | None = Field(
        None, description="The response whose conversation goes on, while it can still be read."
    )
    stream: bool | None = Field(None, description="Send the response's events as they happen.")
    background: bool | None = Field(
        None, description="Answer at once; the response is made whether or not anybody follows it."
    )
    store: bool | None = Field(
        None,
        description="False: the response can't be asked for under its id. Absent: it can, for a "
        "while after it has ended.",
    )
    max_output_tokens: MaxTokens | None = Field(
        None, description="Tokens to generate at most. Absent: as many as the service allows."
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 always takes the likeliest token. Absent: 1."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the likeliest tokens that together reach this."
    )
    text: TextConfig | None = Field(None, description="What the response has to be.")
    include: list[Literal["message.output_text.logprobs"]] | None = Field(
        None, description="Log probabilities are all that can be had in addition."
    )
    top_logprobs: UpTo20 | None = Field(
        None,
        description="How many of the likeliest tokens are told at each place; asks for the "
        "log probabilities by itself.",
    )
    stream_options: ResponseStreamOptions | None = Field(None, description="Only with `stream`.")
    metadata: dict[_Key, _Label] | None = Field(
        None, max_length=_MAX_PAIRS, description="Kept with the response and repeated."
    )
    truncation: Annotated[
        None, refused("A conversation that is too long is refused, not cut.", "disabled")
    ] = None
    tools: Annotated[None, refused(_NO_TOOLS, [])] = None
    tool_choice: Literal["auto", "none"] | None = Field(
        None, description="Ignored: there is nothing to choose from."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Ignored: no tools are called. Repeated."
    )
    user: _Label | None = Field(None, description="Ignored, and repeated.")
    safety_identifier: _Label | None = Field(None, description="Ignored, and repeated.")
    prompt_cache_key: _Label | None = Field(
        None, description="Ignored, and repeated: prefixes are found by themselves."
    )
    prompt_cache_options: ResponseCacheOptions | None = Field(
        None, description="Ignored: what is cached does not change what is generated."
    )
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description="Ignored, likewise."
    )
    service_tier: Annotated[
        None, refused("There is one tier; `priority` is a field here.", "auto", "default")
    ] = None
    access_programs: Annotated[None, refused("There are none.")] = None
    background_options: Annotated[
        None, refused("Background responses are made as soon as possible.")
    ] = None
    context_management: Annotated[None, refused("Conversations are not compacted.", [])] = None
    conversation: Annotated[None, refused("Conversations go on by previous_response_id.")] = None
    image: Annotated[None, refused("Only text is supported.")] = None
    max_tool_calls: Annotated[None, refused(_NO_TOOLS)] = None
    moderation: Annotated[None, refused("Nothing is moderated here.")] = None
    prompt: Annotated[None, refused("There are no prompt templates; send an input.")] = None
    reasoning: Annotated[None, refused("The models here do not reason apart.")] = None

    top_k: TopK | None = Field(None, description="Not OpenAI's. As for `POST /generate`.")
    min_p: float | None = Field(None, ge=0, le=1, description="Not OpenAI's, likewise.")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=2, description="Not OpenAI's, likewise."
    )
    seed: Seed | None = Field(None, description="Not OpenAI's, likewise.")
    stop: Stop | None = Field(None, description="Not OpenAI's, likewise.")
    priority: Priority | None = Field(None, description="Not OpenAI's, likewise.")
    ttl: float | None = Field(None, ge=1, description="Not OpenAI's, likewise.")

    @field_validator("stream_options")
    @classmethod
    def _only_of_streams(
        cls, options: ResponseStreamOptions | None, info: ValidationInfo
    ) -> ResponseStreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise PydanticCustomError("stream_options", "Only a stream has options: set `stream`.")
        return options

    @field_validator("store")
    @classmethod
    def _stored_in_the_background(cls, store: bool | None, info: ValidationInfo) -> bool | None:  # noqa: FBT001 (a validator's)
        if store is False and info.data.get("background"):
            raise PydanticCustomError("store", "A background response has to be stored.")
        return store

    @property
    def padded(self) -> bool:
        """Its stream's deltas are to be obfuscated."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)

    @property
    def stored(self) -> bool:
        return self.store is not False

    def draft(self, earlier: tuple[Message, ...], max_tokens: int) -> Draft:
        """`earlier` is the conversation that goes on; `max_tokens` what the service allows.

        Raises:
            InvalidRequestError: it asks for more than is allowed.
        """
        first = () if self.instructions is None else (Message("system", self.instructions),)
        asked = {"max_output_tokens": self.max_output_tokens}
        return Draft(
            params=self._params(bounded(asked, max_tokens, default=max_tokens)),
            # How a request is answered may change when it is sent again.
            fingerprint=fingerprint(self, exclude={"stream", "stream_options"}),
            model=self.model,
            messages=(*first, *earlier, *(item.message() for item in self.input)),
            background=bool(self.background),
            priority=self.priority or 0,
            ttl=self.ttl,
            note=note.encode(self._note()),
        )

    def _params(self, max_tokens: int) -> SamplingParams:
        asks = LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            seed=new_seed() if self.seed is None else self.seed,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            stop=tuple(self.stop or ()),
            logprobs=self.top_logprobs or 0 if asks else None,
            grammar=self.text.format.grammar() if self.text else None,
        )

    def _note(self) -> ResponseNote:
        return ResponseNote(
            store=self.stored,
            instructed=self.instructions is not None,
            previous_response_id=self.previous_response_id,
            max_output_tokens=self.max_output_tokens,
            text=(self.text or TextConfig()).echo(),
            metadata=self.metadata or {},
            parallel_tool_calls=self.parallel_tool_calls is not False,
            tool_choice=self.tool_choice or "auto",
            top_logprobs=self.top_logprobs or 0,
            user=self.user,
            safety_identifier=self.safety_identifier,
            prompt_cache_key=self.prompt_cache_key,
        )
