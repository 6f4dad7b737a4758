"""The native sampler, built by itself."""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import worker.engine.native

_SOURCE = Path(worker.engine.native.__file__).parent / "src" / "sampler.cpp"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")


@functools.cache
def sampler_library(*more: str) -> ctypes.CDLL:
    """`more`: flags of the compiler."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "sampler.so"
        subprocess.run(["g++", *_FLAGS, *more, _SOURCE, "-o", built], check=True)
        return ctypes.CDLL(str(built))
