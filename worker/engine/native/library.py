"""The compiled kernels as functions that Python can call."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

from shared.errors import KernelsUnavailableError

ABI: Final = 1
"""Of the functions below; `mv_abi` in src/abi.cpp returns the same."""

_Fields: TypeAlias = list[tuple[str, Any]]


class Config(ctypes.Structure):
    """As src/model.h has it."""

    _fields_: ClassVar[_Fields] = [
        ("layers", c_int32),
        ("hidden", c_int32),
        ("intermediate", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("size", c_int32),
        ("vocabulary", c_int32),
        ("columns", c_int32),
        ("epsilon", c_float),
        ("scaling", c_float),
    ]


class LayerSource(ctypes.Structure):
    """As src/model.h has it: addresses of float arrays, 0 where there is none."""

    _fields_: ClassVar[_Fields] = [
        ("attention_norm", c_void_p),
        ("qkv", c_void_p),
        ("qkv_bias", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("out", c_void_p),
        ("out_bias", c_void_p),
        ("mlp_norm", c_void_p),
        ("gate_up", c_void_p),
        ("gate_up_bias", c_void_p),
        ("down", c_void_p),
        ("down_bias", c_void_p),
        ("window", c_int32),
    ]


class LayerCache(ctypes.Structure):
    """As src/attention.h has it."""

    _fields_: ClassVar[_Fields] = [("keys", c_void_p), ("values", c_void_p)]


_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "mv_abi": (c_int, ()),
    "mv_pool_new": (c_int, (c_int, POINTER(c_void_p))),
    "mv_pool_free": (None, (c_void_p,)),
    "mv_model_new": (c_int, (c_void_p, POINTER(Config), c_void_p, c_void_p, POINTER(c_void_p))),
    "mv_model_free": (None, (c_void_p,)),
    "mv_model_add_layer": (c_int, (c_void_p, POINTER(LayerSource))),
    "mv_model_set_ends": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p)),
    "mv_model_bytes": (c_int64, (c_void_p,)),
    "mv_forward": (
        c_int,
        (c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_int, c_void_p, c_int64),
    ),
    "mv_sample": (
        None,
        (c_void_p, c_int64, c_int32, c_int32, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
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


def check(status: int) -> None:
    """Turn what a function returned into an exception.

    Raises:
        MemoryError: there is too little.
    """
    if status:
        raise MemoryError("The kernels could not get the memory they need.")
