"""Commands that ask the service for text."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from shared.errors import GenerationError

if TYPE_CHECKING:
    from cli.client import Client

Prompt = Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")]
Model = Annotated[str | None, typer.Option(help="A name from `minivault models list`.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens to generate at most.")]
Temperature = Annotated[float | None, typer.Option(help="0 takes the likeliest token always.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus: share of probability to draw from.")]
TopK = Annotated[int | None, typer.Option(help="Tokens to draw from; 0: all.")]
MinP = Annotated[float | None, typer.Option(help="Least probability, relative to the likeliest.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1 discourages repetition.")]
PresencePenalty = Annotated[float | None, typer.Option(help="Against tokens used before.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="Against tokens, per use.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop before this text; may be repeated.")]
Echo = Annotated[bool, typer.Option("--echo", help="Put the prompt before the response.")]
Raw = Annotated[bool, typer.Option("--raw", help="No chat template.")]
AsJson = Annotated[bool, typer.Option("--json", help="Everything the service says, as JSON.")]
Url = Annotated[str | None, typer.Option(help="The service. Default: the one the settings name.")]


def ask(
    context: typer.Context,
    prompt: Prompt,
    *,
    model: Model = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    seed: Seed = None,
    stop: Stop = None,
    echo: Echo = False,
    raw: Raw = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Both `generate` and `stream`: they take the same options."""
    from cli.client import Client, RequestRefusedError, service_url  # noqa: PLC0415
    from shared.settings import load_settings  # noqa: PLC0415

    fields = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "stop": stop or None,
        "echo": echo or None,
        "raw": raw or None,
    }
    # What was not given is left to the service's defaults.
    body = {name: value for name, value in fields.items() if value is not None}
    text = sys.stdin.read() if prompt == "-" else prompt
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as Python hands them on
        raise RequestRefusedError("The prompt is no valid UTF-8.") from None
    body["prompt"] = text
    with Client(url or service_url(load_settings())) as client:
        (_stream if context.command.name == "stream" else _generate)(client, body, as_json=as_json)


def _generate(client: Client, body: dict[str, Any], *, as_json: bool) -> None:
    answer = client.generate(body)
    if as_json:
        console.say_json(answer)
    else:
        console.write(answer["response"] + "\n")


def _stream(client: Client, body: dict[str, Any], *, as_json: bool) -> None:
    failure: str | None = None
    for event in client.stream(body):
        if as_json:
            line = {"event": event.name, "id": event.seq, "data": event.data}
            console.write(json.dumps(line, ensure_ascii=False) + "\n")
        else:
            console.write(event.text)
        if event.name == "error":
            failure = str(event.data["message"])
        elif event.name == "cancelled":
            failure = "The job was cancelled."
    if not as_json:
        console.write("\n")
    if failure is not None:
        raise GenerationError(failure)
