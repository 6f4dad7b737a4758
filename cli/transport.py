"""What can go wrong between a client and the service, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from shared.errors import MiniVaultError

_TRY_LATER: Final = (
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.BAD_GATEWAY,  # said by proxies, of a service that restarts
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
)


class ServiceUnavailableError(MiniVaultError):
    """The service can't answer now; trying again later may help."""

    code = "service_unavailable"

    def __init__(self, detail: str, *, retry_after: int | None = None, lost: bool = False) -> None:
        """`lost`: the request may have been received; only the answer has not."""
        super().__init__(detail)
        self.retry_after = retry_after
        self.lost = lost


class RequestRefusedError(MiniVaultError):
    """The service refused the request."""

    code = "request_refused"

    def __init__(self, detail: str, *, status: int | None = None, reason: str = "") -> None:
        """`reason` is the service's own code for it, like `unknown_model`."""
        super().__init__(detail)
        self.status = status
        self.reason = reason


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn httpx's errors into ours."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise RequestRefusedError(f"{url} is no URL: {error}") from error
    except httpx.UnsupportedProtocol as error:
        raise RequestRefusedError(f"{url} is no URL of a service. Write http://...") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServiceUnavailableError(
            f"No service answers at {url}. Start it with `minivault up`, or pass --url."
        ) from error
    except httpx.TransportError as error:
        raise ServiceUnavailableError(
            f"The connection to {url} was lost: {error}", lost=True
        ) from error


def require_success(response: httpx.Response) -> None:
    """Turn a problem document into an error that says what it says; it has been read.

    Raises:
        ServiceUnavailableError: it passes.
        RequestRefusedError: it doesn't.
    """
    if response.is_success:
        return
    reason = ""
    try:
        problem = response.json()
        detail, reason = str(problem["detail"]), str(problem["code"])
        fields = [f"{field['field']}: {field['message']}" for field in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError):
        detail, fields = f"{response.status_code} {response.reason_phrase}", []
    text = " ".join([detail, *fields])
    if response.status_code not in _TRY_LATER:
        raise RequestRefusedError(text, status=response.status_code, reason=reason)
    wait = response.headers.get("Retry-After", "")
    if not wait.isdecimal():
        raise ServiceUnavailableError(text)
    raise ServiceUnavailableError(f"{text} Try again in {wait} s.", retry_after=int(wait))
