"""Who makes a request, and what they may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends
from starlette.requests import Request

from api.errors import AdminRequiredError
from shared.keys import Allowance

EVERYBODYS: Final = Allowance()


@dataclass(frozen=True, slots=True)
class Caller:
    client: str
    """Whom limits and turns are counted for."""
    key: str = ""
    """Id of the API key that the request came with."""
    admin: bool = True
    """May see and do what is everybody's. Everybody may where no key is needed."""
    allowance: Allowance = EVERYBODYS

    def may_see(self, owner: str) -> bool:
        """Whether the jobs of this key, empty for none, are the caller's to see and to end."""
        return self.admin or (bool(self.key) and owner == self.key)

    def models(self, served: Sequence[str]) -> tuple[str, ...]:
        """The caller's of those that are served; the first is their default."""
        allowed = self.allowance.models
        return tuple(name for name in served if allowed is None or name in allowed)


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller  # by `api.authentication`
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


async def _admin(caller: CallerDep) -> Caller:
    if not caller.admin:
        raise AdminRequiredError
    return caller


AdminDep = Annotated[Caller, Depends(_admin)]
"""Who may see and do what is everybody's."""
