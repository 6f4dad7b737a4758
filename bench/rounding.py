"""`python -m bench.rounding`: where a float32 row changes by a bit with its company.

Matrix libraries choose their loops by the size of the operands. This prints, for the shapes
of SmolLM2-135M, which sizes give a row the bits that it has among `ROWS` rows, at every
position in the batch, and whether the sizes that the engine uses are among them. Run it on a
new kind of machine before you rely on docs/architecture.md, "Rounding", there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.engine.activation import in_strips
from worker.engine.cache import ROWS, keys_read

_SHAPES: Final = ((576, 576), (576, 192), (576, 1536), (1536, 576), (576, 49152))
_COUNTS: Final = (*range(1, 130), 255, 256, 383, 384, 510, 512, 1000, 1023, 1024)
_VISIBLE: Final = (40, 150, 200, 300, 383, 500, 530, 720, 1000)
_MOST_KEYS: Final = 1536
_HEAD: Final = 64
_WIDTHS: Final = (1536, 4864)
_THREADS: Final = (1, 2, 3, 4, 8)


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    _products()
    _attention_queries()
    _attention_keys()
    _activations()


def _products() -> None:
    print("Matrix products: numbers of rows, any of which differs")
    for inputs, outputs in _SHAPES:
        weight, rows = torch.randn(outputs, inputs), torch.randn(max(_COUNTS), inputs)

        def product(states: Tensor, weight: Tensor = weight) -> Tensor:
            return functional.linear(states, weight)

        _report(f"{inputs} -> {outputs}", _unlike(product, rows, _COUNTS), _is_padded)


def _attention_queries() -> None:
    print("Attention: numbers of queries, any of which differs")
    keys, values = (torch.randn(1, 3, _MOST_KEYS, _HEAD) for _ in range(2))

    def attend(rows: Tensor) -> Tensor:
        queries = rows.view(1, -1, 3, _HEAD).transpose(1, 2)
        output = functional.scaled_dot_product_attention(queries, keys, values)
        return output.transpose(1, 2).flatten(2)[0]

    unlike = _unlike(attend, torch.randn(max(_COUNTS), 3 * _HEAD), _COUNTS)
    _report("heads of 64", unlike, _is_padded)


def _attention_keys() -> None:
    print("Attention: numbers of keys read, masked ones included, that make a difference")
    queries = torch.randn(1, 2, ROWS, _HEAD)
    keys, values = (torch.randn(1, 2, _MOST_KEYS, _HEAD) for _ in range(2))

    def attend(length: int, visible: int) -> Tensor:
        mask = (torch.arange(length) < visible).expand(1, 1, ROWS, length)
        return functional.scaled_dot_product_attention(
            queries, keys[:, :, :length], values[:, :, :length], attn_mask=mask
        )

    whole = {visible: attend(_MOST_KEYS, visible) for visible in _VISIBLE}
    unlike = [
        length
        for length in range(min(_VISIBLE), _MOST_KEYS)
        if any(
            visible <= length and not torch.equal(attend(length, visible), whole[visible])
            for visible in _VISIBLE
        )
    ]
    multiples = [length for length in unlike if length % 16 == 0]
    _report("multiples of 16", multiples, lambda length: length == keys_read(length), step=16)
    print(f"  others: {len(unlike) - len(multiples)} numbers")


def _activations() -> None:
    print("SiLU: numbers of rows, any of which differs")
    before = torch.get_num_threads()
    for width in _WIDTHS:
        rows = 3 * torch.randn(max(_COUNTS), width)
        for threads in _THREADS:
            torch.set_num_threads(threads)
            padded = [count for count in _COUNTS if _is_padded(count)]
            whole = _unlike(functional.silu, rows, padded)
            model = nn.Sequential(nn.SiLU())
            in_strips(model)
            title = f"width {width}, {threads} threads"
            _report(f"{title}, at once", whole, lambda _: False)
            _report(f"{title}, in strips", _unlike(model, rows, padded), _is_padded)
    torch.set_num_threads(before)


def _unlike(function: Callable[[Tensor], Tensor], rows: Tensor, counts: Iterable[int]) -> list[int]:
    """The numbers of rows among which one is not what it is among `ROWS`."""
    expected = torch.cat([function(part) for part in torch.split(rows, ROWS)])
    return [n for n in counts if not torch.equal(function(rows[:n]), expected[:n])]


def _is_padded(count: int) -> bool:
    return count % ROWS == 0


def _report(title: str, unlike: list[int], used: Callable[[int], bool], *, step: int = 1) -> None:
    ranges: list[list[int]] = []
    for number in unlike:
        if ranges and ranges[-1][-1] == number - step:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    shown = ", ".join("-".join(map(str, ends)) for ends in ranges) or "none"
    wrong = [number for number in unlike if used(number)]
    print(f"  {title}: {shown}" + (f"; THE ENGINE USES {wrong}" if wrong else ""))


if __name__ == "__main__":
    main()
