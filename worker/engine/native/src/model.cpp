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

int tasks_of(int tokens) { return (tokens + kTokensToTask - 1) / kTokensToTask; }

template <class Function>
void for_tokens(Turn& turn, int tokens, const Function& function) {
    turn.share(tasks_of(tokens), [&](int task) {
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
      shape_{config.heads, config.kv_heads, config.size, config.columns, config.scaling, 0},
      attention_(pool.threads()),
      own_(pool.threads()) {
    for (Activations& own : own_)
        own.reserve(kTokensToTask, std::max({config.hidden, config.intermediate, inside()}));
}

void Model::add_layer(const LayerSource& source) {
    const Config& c = config_;
    Layer layer;
    layer.attention_norm = copied(source.attention_norm, c.hidden);
    layer.query_norm = copied(source.query_norm, c.size);
    layer.key_norm = copied(source.key_norm, c.size);
    layer.mlp_norm = copied(source.mlp_norm, c.hidden);
    layer.qkv = std::make_unique<Weights>(pool_, source.qkv, source.qkv_bias, qkv(), c.hidden);
    layer.out = std::make_unique<Weights>(pool_, source.out, source.out_bias, c.hidden, inside());
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

template <class Row>
const Activations& Model::take(Turn& turn, int count, const Row& row, const float* norm,
                               const Weights& weights) {
    const int inputs = weights.inputs();
    const auto set = [&](Activations& activations, int t) {
        const float factor = norm == nullptr ? 1.0f : inverse_rms(row(t), inputs, config_.epsilon);
        activations.set(t, row(t), norm, factor, inputs, weights.group());
    };
    if (count <= kTokensToTask) {  // to wait for another thread would take longer
        Activations& own = own_[turn.thread()];
        for (int t = 0; t < count; ++t) set(own, t);
        return own;
    }
    for_tokens(turn, count, [&](int t) { set(activations_, t); });
    return activations_;
}

void Model::place(Turn& turn, const Layer& layer, const LayerCache& cache) {
    const Config& c = config_;
    for_tokens(turn, static_cast<int>(tokens_.size()), [&](int t) {
        const auto [id, row, position] = tokens_[t];
        const float* cosines = cosines_.data() + int64_t{position} * c.size;
        const float* sines = sines_.data() + int64_t{position} * c.size;
        float* token = qkv_.data() + int64_t{t} * qkv();
        for (int h = 0; h < c.heads + c.kv_heads; ++h) {
            float* head = token + h * c.size;
            const auto& norm = h < c.heads ? layer.query_norm : layer.key_norm;
            if (!norm.empty()) normalize(head, norm.data(), c.size, c.epsilon);
            rotate(head, cosines, sines, c.size);
        }
        keep(shape_, cache, row, position, token);
    });
}

void Model::forward(const int32_t* ids, const std::vector<Segment>& segments, const LayerCache* caches,
                    const int32_t* wanted, int wanted_count, float* logits, int64_t stride) {
    const Config& c = config_;
    tokens_.clear();
    for (const Segment& segment : segments)
        for (int i = 0; i < segment.count; ++i)
            tokens_.push_back({ids[segment.first + i], segment.row, segment.start + i});
    const int tokens = static_cast<int>(tokens_.size());
    make_room(states_, int64_t{tokens} * c.hidden);
    make_room(qkv_, int64_t{tokens} * qkv());
    make_room(attended_, int64_t{tokens} * inside());
    make_room(inner_, int64_t{tokens} * c.intermediate);
    activations_.reserve(std::max(tokens, wanted_count), std::max({c.hidden, c.intermediate, inside()}));
    attention_.prepare(shape_, segments);
    const int phases = 10 * static_cast<int>(layers_.size()) + 3;
    pool_.together(phases, this->tasks(tokens, wanted_count), [&](Turn& turn) {
        pass(turn, caches, wanted, wanted_count, logits, stride);
    });
}

int64_t Model::tasks(int tokens, int wanted_count) const {
    int64_t total = tasks_of(tokens) + tasks_of(wanted_count) + mv::tasks_of(*head_, wanted_count);
    for (const Layer& layer : layers_)
        total += 5 * tasks_of(tokens) + mv::tasks_of(*layer.qkv, tokens) + attention_.tasks() +
                 mv::tasks_of(*layer.out, tokens) + mv::tasks_of(*layer.gate_up, tokens) +
                 mv::tasks_of(*layer.down, tokens);
    return total;
}

void Model::pass(Turn& turn, const LayerCache* caches, const int32_t* wanted, int wanted_count,
                 float* logits, int64_t stride) {
    const Config& c = config_;
    const int tokens = static_cast<int>(tokens_.size());
    const auto row_of = [](const std::vector<float>& rows, int64_t width) {
        return [&rows, width](int t) { return rows.data() + t * width; };
    };
    const auto states = row_of(states_, c.hidden);
    for_tokens(turn, tokens, [&](int t) {
        for (int i = 0; i < c.hidden; i += kLanes)
            store(states_.data() + int64_t{t} * c.hidden + i,
                  load_half(embeddings_ + int64_t{tokens_[t].id} * c.hidden + i));
    });
    AttentionShape shape = shape_;
    for (size_t i = 0; i < layers_.size(); ++i) {
        const Layer& layer = layers_[i];
        const auto& in = take(turn, tokens, states, layer.attention_norm.data(), *layer.qkv);
        multiply(turn, *layer.qkv, in, tokens, Into::kStore, qkv_.data(), qkv());
        place(turn, layer, caches[i]);
        shape.window = layer.window;
        attention_.run(turn, shape, caches[i], qkv_.data(), qkv(), attended_.data());
        const auto& seen = take(turn, tokens, row_of(attended_, inside()), nullptr, *layer.out);
        multiply(turn, *layer.out, seen, tokens, Into::kAdd, states_.data(), c.hidden);
        const auto& mixed = take(turn, tokens, states, layer.mlp_norm.data(), *layer.gate_up);
        multiply(turn, *layer.gate_up, mixed, tokens, Into::kGatedSilu, inner_.data(), c.intermediate);
        const auto& inner = take(turn, tokens, row_of(inner_, c.intermediate), nullptr, *layer.down);
        multiply(turn, *layer.down, inner, tokens, Into::kAdd, states_.data(), c.hidden);
    }
    if (wanted_count == 0) return;
    const auto last = [&](int i) { return states_.data() + int64_t{wanted[i]} * c.hidden; };
    const auto& in = take(turn, wanted_count, last, norm_.data(), *head_);
    multiply(turn, *head_, in, wanted_count, Into::kStore, logits, stride);
}

}  // namespace mv
