// The forward pass of models built like Llama: RMS norms, rotary positions, grouped-query
// attention, gated SiLU.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "pool.h"

namespace mv {

/// As `worker/engine/native/library.py` has it.
struct Config {
    int32_t layers;
    int32_t hidden;        ///< a multiple of 64
    int32_t intermediate;  ///< a multiple of 64
    int32_t heads;
    int32_t kv_heads;
    int32_t size;          ///< of a head; a multiple of 64
    int32_t vocabulary;
    int32_t columns;       ///< of a cache row; a multiple of 16
    float epsilon;
    float scaling;
};

/// Float arrays, read while a layer is made and not later. Those of biases and of the two norms of
/// queries and keys may be null.
struct LayerSource {
    const float* attention_norm;  ///< [hidden]
    const float* qkv;             ///< [(heads + 2 kv_heads) * size][hidden]
    const float* qkv_bias;
    const float* query_norm;      ///< [size]
    const float* key_norm;        ///< [size]
    const float* out;             ///< [hidden][heads * size]
    const float* out_bias;
    const float* mlp_norm;        ///< [hidden]
    const float* gate_up;         ///< 16 rows of the gate, 16 of the other, in turn; [..][hidden]
    const float* gate_up_bias;
    const float* down;            ///< [hidden][intermediate]
    const float* down_bias;
    int32_t window;               ///< 0: all tokens are seen
};

class Model {
   public:
    /// `cosines` and `sines` are [columns][size], kept.
    Model(Pool& pool, const Config& config, const float* cosines, const float* sines);

    void add_layer(const LayerSource& source);

    /// `embeddings` [vocabulary][hidden] in half precision stay the caller's, who keeps them.
    void set_ends(const uint16_t* embeddings, const float* norm, const float* head);

    /// Run all layers over `ids`, whose keys and values are added to `caches`, one for each layer;
    /// write the logits behind the tokens `wanted` (indices into `ids`).
    void forward(const int32_t* ids, const std::vector<Segment>& segments, const LayerCache* caches,
                 const int32_t* wanted, int wanted_count, float* logits, int64_t stride);

    /// Of the weights.
    int64_t bytes() const;

   private:
    struct Layer {
        std::vector<float> attention_norm, query_norm, key_norm, mlp_norm;
        std::unique_ptr<Weights> qkv, out, gate_up, down;
        int window;
    };

    /// Where a token of a pass goes.
    struct Token {
        int32_t id, row, position;
    };

    /// What each thread does.
    void pass(Turn& turn, const LayerCache* caches, const int32_t* wanted, int wanted_count,
              float* logits, int64_t stride);
    /// Quantize `count` rows, of which `row(i)` is one, for `weights`; normalized first if there is
    /// a `norm`.
    template <class Row>
    const Activations& take(Turn& turn, int count, const Row& row, const float* norm,
                            const Weights& weights);
    /// Rotate queries and keys, and keep keys and values.
    void place(Turn& turn, const Layer& layer, const LayerCache& cache);
    /// Of a pass of so many tokens.
    int64_t tasks(int tokens, int wanted_count) const;

    int inside() const { return config_.heads * config_.size; }
    int qkv() const { return inside() + 2 * config_.kv_heads * config_.size; }

    Pool& pool_;
    const Config config_;
    std::vector<float> cosines_, sines_;
    std::vector<Layer> layers_;
    const uint16_t* embeddings_ = nullptr;
    std::vector<float> norm_;
    std::unique_ptr<Weights> head_;
    const AttentionShape shape_;
    Attention attention_;
    Activations activations_;
    std::vector<Activations> own_;  // of each thread
    std::vector<Token> tokens_;
    std::vector<float> states_, qkv_, attended_, inner_;
};

}  // namespace mv
