"""Exceptions as logs may show them: what, where and why, but not what was in the data.

A library that stumbles over a prompt may quote it. So a message is shown only if it comes from
us or from what we talk to, and of others their type and where they come from.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

from shared.errors import MiniVaultError

WITHHELD: Final = "(message withheld, for it may quote a prompt; log level debug shows it)"
_SHOWN: Final = (MiniVaultError, RedisError, OSError, ImportError)
"""Not SQLAlchemy's: they quote rows. What the database said is in our `StoreError`."""


def shielded(error: BaseException) -> BaseException:
    """A stand-in with the same name, place and causes."""
    return _stand_in(error, {})


def _stand_in(error: BaseException, made: dict[int, BaseException]) -> BaseException:
    if id(error) in made:
        return made[id(error)]
    kind = type(error)
    message = str(error) if isinstance(error, _SHOWN) else WITHHELD
    if isinstance(error, BaseExceptionGroup):
        parts = [_stand_in(part, made) for part in error.exceptions]
        found: BaseException = BaseExceptionGroup(WITHHELD, parts)
    else:
        # Made anew: a subclass's own constructor may want anything.
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        found = type(kind.__name__, (Exception,), names)(message)
    made[id(error)] = found
    found.__traceback__ = error.__traceback__
    if error.__cause__ is not None:
        found.__cause__ = _stand_in(error.__cause__, made)
    if error.__context__ is not None:
        found.__context__ = _stand_in(error.__context__, made)
    found.__suppress_context__ = error.__suppress_context__
    return found
