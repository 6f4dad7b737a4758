from __future__ import annotations

import math

import pytest
import torch

from bench.quality import Comparison


def test_equal_logits_are_equal_in_everything() -> None:
    found = Comparison()
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))

    found.add(logits, logits + 3, torch.arange(20))  # a constant changes no probability

    assert found.served_perplexity == pytest.approx(found.right_perplexity, rel=1e-6)
    assert found.agreement(0.0) == (1.0, 1.0)
    assert found.divergence == pytest.approx(0, abs=1e-5)


def test_perplexity_agreement_and_margins_are_what_they_say() -> None:
    even = [0.0, 0.0, -1e9, -1e9]
    clear, close = [math.log(3), 0.0, -1e9, -1e9], [math.log(1.1), 0.0, -1e9, -1e9]
    turned = [0.0, math.log(1.1), -1e9, -1e9]
    found = Comparison()

    found.add(torch.tensor([clear]), torch.tensor([clear]), torch.tensor([0]))
    found.add(torch.tensor([close]), torch.tensor([turned]), torch.tensor([1]))

    assert found.count == 2
    assert found.right_perplexity == pytest.approx(math.sqrt((4 / 3) * 2.1))
    assert found.served_perplexity == pytest.approx(math.sqrt((4 / 3) * (2.1 / 1.1)))
    assert found.agreement(0.0) == (0.5, 1.0)
    assert found.agreement(0.5) == (1.0, 0.5)
    assert found.divergence == pytest.approx((1.1 - 1) / 2.1 * math.log(1.1))
    uniform = Comparison()
    uniform.add(torch.tensor([even]), torch.tensor([even]), torch.tensor([1]))
    assert uniform.right_perplexity == pytest.approx(2)
