"""A long English text that ships with Python: the documentation of its own topics."""

from __future__ import annotations

from pydoc_data.topics import topics

from tokenizers import Tokenizer

from shared.catalog import load_catalog
from shared.settings import Settings


class Text:
    """The text as the default model's tokens, which its model folder has to hold."""

    def __init__(self, settings: Settings) -> None:
        folder = load_catalog(settings)[settings.default_model].folder(settings)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        whole = "\n\n".join(topics[name] for name in sorted(topics))
        self.ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids

    def piece(self, tokens: int, number: int = 0) -> str:
        """So many tokens; another piece for each number, as long as the text has one."""
        start = tokens * number % max(1, len(self.ids) - tokens)
        return self._tokenizer.decode(self.ids[start : start + tokens])
