"""The compiled kernels as functions that Python can call."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

from shared.errors import KernelsUnavailableError

ABI: Final = 1
"""Of the functions below; `mv_abi` in src/abi.cpp returns the same."""

_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "mv_abi": (ctypes.c_int, ()),
}
"""Name → (result, arguments). ctypes would take any other call for right."""


def load(path: Path) -> ctypes.CDLL:
    """Open a library that is known to be whole, with its functions declared.

    Raises:
        KernelsUnavailableError: it can't be opened here, or is made for other callers.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise KernelsUnavailableError(f"{path} can't be loaded: {error}") from error
    if (abi := library.mv_abi()) != ABI:
        raise KernelsUnavailableError(f"{path} has ABI {abi}, not {ABI}.")
    return library
