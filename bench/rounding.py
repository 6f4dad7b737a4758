"""`python -m bench.rounding`: at which batch sizes a row's float32 result changes by a bit.

Matrix libraries choose their loops by the number of rows. This prints, for the shapes of
SmolLM2-135M, the batch sizes whose first row comes out bit for bit the same, and the same
for attention over a longer or shorter stretch of masked keys.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_SHAPES: Final = ((576, 576), (576, 192), (576, 1536), (1536, 576), (576, 49152))
_BATCHES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)
_LENGTHS: Final = (40, 41, 48, 64, 96, 128, 256, 512)


def main() -> None:
    torch.manual_seed(0)
    print("matrix product: batch sizes that round alike")
    for inputs, outputs in _SHAPES:
        weight, rows = torch.randn(outputs, inputs), torch.randn(max(_BATCHES), inputs)
        alike: defaultdict[bytes, list[int]] = defaultdict(list)
        for batch in _BATCHES:
            alike[_bits(functional.linear(rows[:batch], weight)[0])].append(batch)
        print(f"  {inputs} -> {outputs}: {list(alike.values())}")
    print("attention over 40 keys: (batch, padded length) that round alike")
    query, key, value = (torch.randn(8, 3, n, 64) for n in (3, 512, 512))
    found: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for batch in (1, 2, 8):
        for length in _LENGTHS:
            output = functional.scaled_dot_product_attention(
                query[:batch],
                key[:batch, :, :length],
                value[:batch, :, :length],
                attn_mask=(torch.arange(length) < 40).expand(batch, 1, 1, length),
            )
            found[_bits(output[0])].append((batch, length))
    for group in found.values():
        print(f"  {group}")


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


if __name__ == "__main__":
    main()
