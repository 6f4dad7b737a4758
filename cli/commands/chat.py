"""A conversation in the terminal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.commands.ask import MaxTokens, MinP, Model, Seed, Temperature, TopK, TopP, Url


def chat(
    *,
    goes_on: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the latest one, or with --name.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What to keep it under.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    url: Url = None,
) -> None:
    """Talk to a model. Each line is a turn; /help lists what else there is.

    It is kept in a file as it goes, so that --continue finds an answer in mid-sentence.
    """
    from cli.chat import Chat  # noqa: PLC0415
    from cli.client import ENDLESS, Client, service_url  # noqa: PLC0415
    from cli.conversation import opened  # noqa: PLC0415
    from cli.credentials import api_key  # noqa: PLC0415
    from cli.patience import SECONDS  # noqa: PLC0415
    from cli.screen import Screen  # noqa: PLC0415
    from shared.configuration import load_settings  # noqa: PLC0415

    fields: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
    }
    settings, screen = load_settings(), Screen()
    # A person sees that it waits, and can stop it; a script should not hang.
    patience = ENDLESS if screen.is_terminal else SECONDS
    with (
        opened(name, goes_on=goes_on) as file,
        Client(
            url or service_url(settings),
            api_key=api_key(settings),
            patience=patience,
            on_pause=screen.pause,
        ) as client,
    ):
        talk = Chat(client, file, screen)
        if screen.is_terminal:
            screen.note(f"Conversation {file.path.stem}. /help lists what there is.")
        talk.catch_up()
        file.conversation.fields |= {k: value for k, value in fields.items() if value is not None}
        if system is not None:
            file.conversation.system = system
        file.save()
        talk.run()
