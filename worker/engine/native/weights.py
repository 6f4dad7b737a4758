"""A transformers model's weights in the form that the kernels compute with."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.native import library
from worker.engine.native.architecture import head_size, window_of

_LANES: Final = 16
"""Gates lie beside what they gate, so many of each in turn: what is computed at once."""


class NativeWeights:
    """Weights in int8, made from a model in float32, which is not needed any longer then."""

    def __init__(
        self, kernels: ctypes.CDLL, model: PreTrainedModel, *, columns: int, threads: int
    ) -> None:
        """`columns` of a cache row, a multiple of 16. `threads`: how many compute.

        Raises:
            MemoryError: there is too little.
        """
        config: Any = model.config.get_text_config()
        parts: Any = model  # its accessors are untyped
        inner, head = parts.get_decoder(), parts.get_output_embeddings()
        embeddings: Any = model.get_input_embeddings()
        pool, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self.kernels = kernels
        self.pool = pool
        """Of threads; one call at a time."""
        self.layers = config.num_hidden_layers
        self.kv_heads = config.num_key_value_heads
        self.size = head_size(config)
        self.vocabulary: int = config.vocab_size
        self.columns = columns
        library.check(kernels.mv_pool_new(threads, ctypes.byref(pool)))
        self._end = weakref.finalize(self, _free, kernels, handle, pool)
        self._end.atexit = False  # another thread may be computing then
        shape = library.Config(
            layers=self.layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=self.kv_heads,
            size=self.size,
            vocabulary=self.vocabulary,
            columns=columns,
            epsilon=config.rms_norm_eps,
            scaling=inner.layers[0].self_attn.scaling,
        )
        with torch.inference_mode():
            cosines, sines = inner.rotary_emb(torch.zeros(1), torch.arange(columns)[None])
            tables = [_floats(table[0]) for table in (cosines, sines)]
            library.check(
                kernels.mv_model_new(
                    pool,
                    ctypes.byref(shape),
                    *(table.data_ptr() for table in tables),
                    ctypes.byref(handle),
                )
            )
            self.handle = handle
            for number, layer in enumerate(inner.layers):
                self._add(layer, window_of(config, number))
            self._embeddings = embeddings.weight.half().contiguous()
            norm, last = _floats(inner.norm.weight), _floats(head.weight)
            library.check(
                kernels.mv_model_set_ends(
                    handle, self._embeddings.data_ptr(), norm.data_ptr(), last.data_ptr()
                )
            )

    @property
    def bytes(self) -> int:
        quantized = int(self.kernels.mv_model_bytes(self.handle))
        return quantized + int(self._embeddings.nbytes)

    def _add(self, layer: Any, window: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        arrays = {
            "attention_norm": layer.input_layernorm.weight,
            "qkv": torch.cat([each.weight for each in inputs]),
            "qkv_bias": _joined([each.bias for each in inputs]),
            "query_norm": _norm(attention, "q_norm"),
            "key_norm": _norm(attention, "k_norm"),
            "out": attention.o_proj.weight,
            "out_bias": attention.o_proj.bias,
            "mlp_norm": layer.post_attention_layernorm.weight,
            "gate_up": _in_turn(mlp.gate_proj.weight, mlp.up_proj.weight),
            "gate_up_bias": _in_turn(mlp.gate_proj.bias, mlp.up_proj.bias),
            "down": mlp.down_proj.weight,
            "down_bias": mlp.down_proj.bias,
        }
        floats = {name: _floats(each) for name, each in arrays.items() if each is not None}
        source = library.LayerSource(
            **{name: each.data_ptr() for name, each in floats.items()}, window=window
        )
        library.check(self.kernels.mv_model_add_layer(self.handle, ctypes.byref(source)))


def _free(kernels: ctypes.CDLL, handle: ctypes.c_void_p, pool: ctypes.c_void_p) -> None:
    if handle:
        kernels.mv_model_free(handle)
    kernels.mv_pool_free(pool)


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _norm(attention: Any, name: str) -> Tensor | None:
    found = getattr(attention, name, None)
    return None if found is None else found.weight


def _joined(biases: list[Tensor | None]) -> Tensor | None:
    given = [bias for bias in biases if bias is not None]
    return torch.cat(given) if given else None


def _in_turn(gate: Tensor | None, up: Tensor | None) -> Tensor | None:
    """Rows of both, `_LANES` of the one and as many of the other."""
    if gate is None or up is None:
        return None
    pairs = torch.stack([each.reshape(-1, _LANES, *each.shape[1:]) for each in (gate, up)], dim=1)
    return pairs.flatten(0, 2)
