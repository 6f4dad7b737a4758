#include "model.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace mv {

namespace {

/// Tokens to a task where each takes less than a microsecond.
constexpr int kTokensToTask = 4;

std::vector<float> copied(const float* from, int64_t count) {
    return from == nullptr ? std::vector<float>() : std::vector<float>(from, from + count);
}

/// 1 / sqrt(mean(x^2) + epsilon)
inline float inverse_rms(const float* x, int count, float epsilon) {
    Floats squares = zero();
    for (int i = 0; i < count; i += kLanes) {
        const Floats v = load(x + i);
        squares = fmadd(v, v, squares);
    }
    return 1.0f / std::sqrt(sum(squares) / static_cast<float>(count) + epsilon);
}

/// Turn each pair (i, i + size / 2) of a head, as transformers pairs them.
inline void rotate(float* head, const float* cosines, const float* sines, int size) {
    const int half = size / 2;
    for (int i = 0; i < half; i += kLanes) {
        const Floats a = load(head + i), b = load(head + half + i);
        store(head + i, a * load(cosines + i) - b * load(sines + i));
        store(head + half + i, b * load(cosines + half + i) + a * load(sines + half + i));
    }
}

inline void normalize(float* x, const float* gain, int count, float epsilon) {
    const Floats factor = all(inverse_rms(x, count, epsilon));
    for (int i = 0; i < count; i += kLanes) store(x + i, load(x + i) * factor * load(gain + i));
}

template <class Function>
void for_tokens(Pool& pool, int tokens, const Function& function) {
    pool.run((tokens + kTokensToTask - 1) / kTokensToTask, [&](int task, int) {
        for (int t = task * kTokensToTask; t < std::min(tokens, (task + 1) * kTokensToTask); ++t)
            function(t);
    });
}

void make_room(std::vector<float>& numbers, int64_t count) {
    if (static_cast<int64_t>(numbers.size()) < count) numbers.resize(count);
}

}  // namespace

Model::Model(Pool& pool, const Config& config, const float* cosines, const float* sines)
    : pool_(pool),
      config_(config),
      cosines_(copied(cosines, int64_t{config.columns} * config.size)),
      sines_(copied(sines, int64_t{config.columns} * config.size)),
      attention_(pool.threads()) {}

void Model::add_layer(const LayerSource& source) {
    const Config& c = config_;
    const int inside = c.heads * c.size, qkv = inside + 2 * c.kv_heads * c.size;
    Layer layer;
    layer.attention_norm = copied(source.attention_norm, c.hidden);
    layer.query_norm = copied(source.query_norm, c.size);
    layer.key_norm = copied(source.key_norm, c.size);
    layer.mlp_norm = copied(source.mlp_norm, c.hidden);
    layer.qkv = std::make_unique<Weights>(pool_, source.qkv, source.qkv_bias, qkv, c.hidden);
    layer.out = std::make_unique<Weights>(pool_, source.out, source.out_bias, c.hidden, inside);
    layer.gate_up = std::make_unique<Weights>(pool_, source.gate_up, source.gate_up_bias,
                                              2 * c.intermediate, c.hidden);
    layer.down = std::make_unique<Weights>(pool_, source.down, source.down_bias, c.hidden, c.intermediate);
    layer.window = source.window;
    layers_.push_back(std::move(layer));
}

void Model::set_ends(const uint16_t* embeddings, const float* norm, const float* head) {
    embeddings_ = embeddings;
    norm_ = copied(norm, config_.hidden);
    head_ = std::make_unique<Weights>(pool_, head, nullptr, config_.vocabulary, config_.hidden);
}

int64_t Model::bytes() const {
    int64_t total = head_ ? head_->bytes() : 0;
    for (const Layer& layer : layers_)
        total += layer.qkv->bytes() + layer.out->bytes() + layer.gate_up->bytes() + layer.down->bytes();
    return total;
}

void Model::take(const float* from, int64_t stride, int count, const float* norm, const Weights& weights) {
    const int inputs = weights.inputs();
    for_tokens(pool_, count, [&](int t) {
        const float* row = from + t * stride;
        const float factor = norm == nullptr ? 1.0f : inverse_rms(row, inputs, config_.epsilon);
        activations_.set(t, row, norm, factor, inputs, weights.group());
    });
}

void Model::place(const Layer& layer, const std::vector<Segment>& segments, int tokens) {
    const Config& c = config_;
    std::vector<int> positions(tokens);
    for (const Segment& segment : segments)
        for (int t = 0; t < segment.count; ++t) positions[segment.first + t] = segment.start + t;
    const int64_t stride = int64_t{c.heads + 2 * c.kv_heads} * c.size;
    for_tokens(pool_, tokens, [&](int t) {
        const float* cosines = cosines_.data() + int64_t{positions[t]} * c.size;
        const float* sines = sines_.data() + int64_t{positions[t]} * c.size;
        for (int h = 0; h < c.heads + c.kv_heads; ++h) {
            float* head = qkv_.data() + t * stride + h * c.size;
            const auto& norm = h < c.heads ? layer.query_norm : layer.key_norm;
            if (!norm.empty()) normalize(head, norm.data(), c.size, c.epsilon);
            rotate(head, cosines, sines, c.size);
        }
    });
}

void Model::forward(const int32_t* ids, const std::vector<Segment>& segments, const LayerCache* caches,
                    const int32_t* wanted, int wanted_count, float* logits, int64_t stride) {
    const Config& c = config_;
    const int tokens = segments.empty() ? 0 : segments.back().first + segments.back().count;
    const int inside = c.heads * c.size, qkv = inside + 2 * c.kv_heads * c.size;
    make_room(states_, int64_t{tokens} * c.hidden);
    make_room(qkv_, int64_t{tokens} * qkv);
    make_room(attended_, int64_t{tokens} * inside);
    make_room(inner_, int64_t{tokens} * c.intermediate);
    make_room(last_, int64_t{wanted_count} * c.hidden);
    activations_.reserve(std::max(tokens, wanted_count), std::max({c.hidden, c.intermediate, inside}));
    AttentionShape shape{c.heads, c.kv_heads, c.size, c.columns, c.scaling, 0};

    pool_.begin();
    for (int t = 0; t < tokens; ++t)
        for (int i = 0; i < c.hidden; i += kLanes)
            store(states_.data() + int64_t{t} * c.hidden + i,
                  load_half(embeddings_ + int64_t{ids[t]} * c.hidden + i));
    for (size_t i = 0; i < layers_.size(); ++i) {
        const Layer& layer = layers_[i];
        take(states_.data(), c.hidden, tokens, layer.attention_norm.data(), *layer.qkv);
        multiply(pool_, *layer.qkv, activations_, tokens, Into::kStore, qkv_.data(), qkv);
        place(layer, segments, tokens);
        shape.window = layer.window;
        attention_.run(pool_, shape, caches[i], segments, qkv_.data(), qkv, attended_.data());
        take(attended_.data(), inside, tokens, nullptr, *layer.out);
        multiply(pool_, *layer.out, activations_, tokens, Into::kAdd, states_.data(), c.hidden);
        take(states_.data(), c.hidden, tokens, layer.mlp_norm.data(), *layer.gate_up);
        multiply(pool_, *layer.gate_up, activations_, tokens, Into::kGatedSilu, inner_.data(), c.intermediate);
        take(inner_.data(), c.intermediate, tokens, nullptr, *layer.down);
        multiply(pool_, *layer.down, activations_, tokens, Into::kAdd, states_.data(), c.hidden);
    }
    for (int i = 0; i < wanted_count; ++i)
        std::copy_n(states_.data() + int64_t{wanted[i]} * c.hidden, c.hidden,
                    last_.data() + int64_t{i} * c.hidden);
    if (wanted_count > 0) {
        take(last_.data(), c.hidden, wanted_count, norm_.data(), *head_);
        multiply(pool_, *head_, activations_, wanted_count, Into::kStore, logits, stride);
    }
    pool_.end();
}

}  // namespace mv
