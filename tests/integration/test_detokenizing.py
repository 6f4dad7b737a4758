"""The real tokenizer's text, token by token, is what the library decodes."""

import random
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support.engines import greedy, request
from worker.engine.decoder import ByteDecoder, Decoder, PlainDecoder, decoder_of
from worker.engine.detokenizer import detokenizer
from worker.engine.sequence import Sequence

TEXT = "Zwölf Boxkämpfer: 日本の首都はどこですか? 🙂👩‍👧 naïve café \ufffd \x00 <|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer(real_model_folder: str) -> Any:
    return AutoTokenizer.from_pretrained(real_model_folder)


def pieces(decoder: Decoder, prompt: list[int], answer: list[int]) -> list[str]:
    text = detokenizer(decoder, prompt)
    return [text.push(token_id) for token_id in answer]


def test_all_tokens_alone_and_in_any_order(tokenizer: Any) -> None:
    cheap, plain = decoder_of(tokenizer), PlainDecoder(tokenizer)
    assert isinstance(cheap, ByteDecoder)
    everything = list(range(len(tokenizer)))
    for token_id in everything:
        assert cheap.decode([token_id]) == plain.decode([token_id])
    random.Random(1).shuffle(everything)
    assert cheap.decode(everything) == plain.decode(everything)
    assert pieces(cheap, everything[:9], everything) == pieces(plain, everything[:9], everything)


def test_texts_cut_anywhere(tokenizer: Any) -> None:
    cheap, plain = decoder_of(tokenizer), PlainDecoder(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    for cut in range(len(ids)):
        assert pieces(cheap, ids[:cut], ids[cut:]) == pieces(plain, ids[:cut], ids[cut:])


def test_a_resumed_answer_goes_on_with_the_same_text(tokenizer: Any) -> None:
    decoder = decoder_of(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]

    def sequence(said: list[int], text: str) -> Sequence:
        params = greedy(1000, stop=("nobody says this",))
        asked = request("x", [1, 2], params, generated_ids=tuple(said), generated_text=text)
        return Sequence(asked, decoder=decoder, eos_ids=(), context=2000)

    whole = [sequence([], "")]
    texts = [whole[0].accept(token_id).text for token_id in ids]
    for cut in range(len(ids)):
        resumed = sequence(ids[:cut], "".join(texts[:cut]))
        assert [resumed.accept(token_id).text for token_id in ids[cut:]] == texts[cut:]
