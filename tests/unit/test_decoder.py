"""What decodes cheaply decodes as transformers does, in whole and piece by piece."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from worker.engine.decoder import ByteDecoder, LibraryDecoder, PlainDecoder, decoder_of
from worker.engine.detokenizer import detokenizer

TEXT = (
    "The café's naïve owner said: 日本の首都 🙂👩\u200d👩\u200d👧 is 12 °C, \ufffd! "
    "Привет, мир.\n\tfrom x import y"
)


def byte_level() -> Any:
    """With tokens of single bytes, some pairs of them, and some that were added."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=alphabet,
        special_tokens=["<s>", "<é>"],
        show_progress=False,
    )
    made.train_from_iterator([TEXT, TEXT[::-1]], trainer)
    made.add_tokens([AddedToken("naïve"), AddedToken("東京"), AddedToken("a b"), AddedToken("Ġ")])
    made.add_special_tokens([AddedToken("<|late|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def with_bytes_to_fall_back_on() -> Any:
    """As sentencepiece's are converted: words carry their space, and the first one loses it."""
    vocabulary = {"<unk>": 0, "<s>": 1, "▁the": 2, "▁": 3, "é": 4, "c": 5, "▁caf": 6}
    vocabulary |= {f"<0x{byte:02X}>": 7 + byte for byte in range(256)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def pieces(decoding: Any, ids: Sequence[int]) -> list[str]:
    return [decoding.push(token_id) for token_id in ids]


BYTE_LEVEL = byte_level()
SIZE = len(BYTE_LEVEL)


def sequences() -> st.SearchStrategy[list[int]]:
    """Of all tokens, ids that are none, and those of real text, perhaps cut in a character."""
    text = st.text(max_size=20).map(lambda each: list(BYTE_LEVEL(TEXT[:5] + each)["input_ids"]))
    return st.one_of(st.lists(st.integers(0, SIZE + 3), max_size=30), text)


@settings(max_examples=500, deadline=None)
@given(prompt=sequences(), answer=sequences())
def test_tokens_of_bytes_give_the_text_that_the_library_gives(
    prompt: list[int], answer: list[int]
) -> None:
    cheap, plain = decoder_of(BYTE_LEVEL), PlainDecoder(BYTE_LEVEL)
    assert isinstance(cheap, ByteDecoder)
    assert cheap.decode(prompt + answer) == plain.decode(prompt + answer)
    ours = pieces(detokenizer(cheap, prompt), answer)
    assert ours == by_two_decodings(BYTE_LEVEL, prompt, answer)


def test_each_token_alone() -> None:
    cheap, plain = decoder_of(BYTE_LEVEL), PlainDecoder(BYTE_LEVEL)
    for token_id in range(SIZE + 3):
        assert cheap.decode([token_id]) == plain.decode([token_id])


def test_a_text_comes_whole() -> None:
    text = TEXT.replace("naïve", "naive")  # as an added token, the library reads it as bytes
    ids = BYTE_LEVEL(text)["input_ids"]
    assert "".join(pieces(detokenizer(decoder_of(BYTE_LEVEL), []), ids)) == text


def by_two_decodings(tokenizer: Any, prompt: list[int], answer: list[int]) -> list[str]:
    """The definition: what a decoding has more than that of the tokens shown before."""
    decode, ids = PlainDecoder(tokenizer).decode, prompt[-6:]
    begin, end, shown = 0, len(ids), []
    for token_id in answer:
        ids.append(token_id)
        before, after = decode(ids[begin:end]), decode(ids[begin:])
        shown.append("")
        if not after.endswith("\ufffd") and len(after) > len(before):
            begin, end = end, len(ids)
            shown[-1] = after[len(before) :]
    return shown


IDS = st.lists(st.integers(0, 270), max_size=30)


@settings(max_examples=200, deadline=None)
@given(prompt=IDS, answer=IDS)
def test_other_tokenizers_are_asked_themselves(prompt: list[int], answer: list[int]) -> None:
    tokenizer = with_bytes_to_fall_back_on()
    decoder = decoder_of(tokenizer)
    assert isinstance(decoder, LibraryDecoder)
    assert decoder.decode(prompt + answer) == PlainDecoder(tokenizer).decode(prompt + answer)
    ours = pieces(detokenizer(decoder, prompt), answer)
    assert ours == by_two_decodings(tokenizer, prompt, answer)


def test_words_keep_their_spaces() -> None:
    text = detokenizer(decoder_of(with_bytes_to_fall_back_on()), [2])
    assert pieces(text, [6, 7 + 0xC3, 7 + 0xA9, 1, 2]) == [" caf", "", "é", "", " the"]


def test_a_class_that_decodes_in_its_own_way_is_asked_itself() -> None:
    class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc]
        def decode(self, *args: Any, **options: Any) -> str:
            return super().decode(*args, **options).upper()

    own = Shouting(tokenizer_object=BYTE_LEVEL.backend_tokenizer)
    assert isinstance(decoder_of(own), PlainDecoder)
