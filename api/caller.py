"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from api.deps import StateDep
from api.errors import AdminRequiredError
from api.proxies import limit_key


@dataclass(frozen=True, slots=True)
class Caller:
    client: str
    """Whom limits and turns are counted for."""
    key: str = ""
    """Id of the API key that the request came with."""
    admin: bool = True
    """May see and do what is everybody's."""


def _caller(request: Request, state: StateDep) -> Caller:
    return Caller(client=limit_key(state.proxies.client(request)))


CallerDep = Annotated[Caller, Depends(_caller)]


def _admin(caller: CallerDep) -> Caller:
    if not caller.admin:
        raise AdminRequiredError
    return caller


AdminDep = Annotated[Caller, Depends(_admin)]
