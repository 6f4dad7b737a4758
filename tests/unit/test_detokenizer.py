"""Text from tokens, piece by piece."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.detokenizer import detokenizer


class Utf8Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8, so that characters are split."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class LeadingSpaceEaten:
    """Like sentencepiece: words carry their space, and the first one of a text loses it."""

    words = ("", "Hello", "world", "again")

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.words[i] for i in ids)


@given(st.text(max_size=40), st.text(max_size=40))
def test_pieces_join_to_the_text_and_never_show_half_a_character(prompt: str, answer: str) -> None:
    tokenizer = Utf8Bytes()
    text = detokenizer(tokenizer, tokenizer.encode(prompt))
    pieces = [text.push(token_id) for token_id in tokenizer.encode(answer)]
    assert "".join(pieces) == answer
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in answer


def test_what_stays_incomplete_is_not_shown() -> None:
    text = detokenizer(Utf8Bytes(), [])
    assert [text.push(byte) for byte in "é🙂".encode()[:-1]] == ["", "é", "", "", ""]


def test_a_space_between_prompt_and_answer_survives() -> None:
    text = detokenizer(LeadingSpaceEaten(), [1])
    assert [text.push(2), text.push(3)] == [" world", " again"]


def test_a_long_answer_is_decoded_in_short_pieces() -> None:
    class Counting(Utf8Bytes):
        longest = 0

        def decode(self, ids: list[int]) -> str:
            self.longest = max(self.longest, len(ids))
            return super().decode(ids)

    tokenizer = Counting()
    text = detokenizer(tokenizer, tokenizer.encode("prompt"))
    for byte in b"x" * 500:
        text.push(byte)
    assert tokenizer.longest < 10
