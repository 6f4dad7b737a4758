"""Commands that ask the service for text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from shared.errors import MiniVaultError

if TYPE_CHECKING:
    from cli.client import Client
    from cli.printers import Printer

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
Priority = Annotated[int | None, typer.Option(help="Higher goes first; 0 to 9, if allowed.")]
Ttl = Annotated[float | None, typer.Option(help="Seconds that the job may wait for its turn.")]
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
    priority: Priority = None,
    ttl: Ttl = None,
    echo: Echo = False,
    raw: Raw = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """`generate`, `stream` and `submit`: they take the same options."""
    from cli.client import Client, service_url  # noqa: PLC0415
    from cli.credentials import api_key  # noqa: PLC0415
    from cli.printers import AnswerPrinter  # noqa: PLC0415
    from shared.configuration import load_settings  # noqa: PLC0415

    fields: dict[str, Any] = {
        "prompt": _text(prompt),
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
        "priority": priority,
        "ttl": ttl,
        "echo": echo or None,
        "raw": raw or None,
    }
    # What was not given is left to the service's defaults.
    body = {name: value for name, value in fields.items() if value is not None}
    settings = load_settings()
    with Client(url or service_url(settings), api_key=api_key(settings)) as client:
        match context.command.name:
            case "submit":
                job = client.submit(**body)
                console.say_json(job.data) if as_json else console.say(job.id)
            case "stream":
                _follow(client, body, stream_printer(as_json=as_json))
            case _:
                _follow(client, body, AnswerPrinter(as_json=as_json))


def stream_printer(*, as_json: bool) -> Printer:
    from cli.printers import JsonLinesPrinter, TextPrinter  # noqa: PLC0415

    return JsonLinesPrinter() if as_json else TextPrinter()


def _text(prompt: str) -> str:
    from cli.transport import RequestRefusedError  # noqa: PLC0415

    text = sys.stdin.read() if prompt == "-" else prompt
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as Python hands them on
        raise RequestRefusedError("The prompt is no valid UTF-8.") from None
    return text


def _follow(client: Client, body: Mapping[str, Any], printer: Printer) -> None:
    """Show a job to its end. An interrupt ends it: nobody waits for it any more."""
    stream = client.stream(**body)
    try:
        with printer:
            for event in stream:
                printer.show(event)
            printer.end()
    except KeyboardInterrupt:
        if stream.job_id:
            with suppress(MiniVaultError):  # without a follower it ends by itself
                client.cancel(stream.job_id)
        raise
