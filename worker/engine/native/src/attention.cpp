#include "attention.h"

#include <algorithm>

#include "simd.h"

namespace mv {

namespace {

/// Tokens of a prompt that attend together: their keys and values are read once for all of them.
constexpr int kTokensTogether = 16;
/// Query vectors whose scores or sums stay in registers.
#if defined(__AVX512F__)
constexpr int kTogether = 6;
#else
constexpr int kTogether = 3;
#endif
/// Numbers of a head that are summed at a time.
constexpr int kSizeTogether = 64;
constexpr int32_t kLaneNumbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr float kNever = -3.0e38f;
constexpr float kLargestHalf = 65504.0f;

/// Infinity, with a weight of zero, would be no number.
inline void store_finite(uint16_t* p, Floats x) {
    store_half(p, larger(smaller(x, all(kLargestHalf)), all(-kLargestHalf)));
}

void keep(const AttentionShape& shape, const LayerCache& cache, const Segment& segment, int head,
          const float* qkv, int64_t stride) {
    const int64_t row = (int64_t{segment.row} * shape.kv_heads + head) * shape.columns * shape.size;
    const int key_at = (shape.heads + head) * shape.size;
    const int value_at = (shape.heads + shape.kv_heads + head) * shape.size;
    for (int t = 0; t < segment.count; ++t) {
        const float* token = qkv + (segment.first + t) * stride;
        const int column = segment.start + t;
        uint16_t half[kLanes];
        uint16_t* keys = cache.keys + row + int64_t{column / kKeysTogether} * kKeysTogether * shape.size;
        uint16_t* values = cache.values + row + int64_t{column} * shape.size;
        for (int i = 0; i < shape.size; i += kLanes) {
            store_finite(half, load(token + key_at + i));
            for (int j = 0; j < kLanes; ++j)
                keys[(i + j) * kKeysTogether + column % kKeysTogether] = half[j];
            store_finite(values + i, load(token + value_at + i));
        }
    }
}

/// Scores of `Queries` vectors against `Blocks` times 16 keys; each sums up in the order of a
/// head's numbers, whatever it is computed with.
template <int Queries, int Blocks>
inline void score(const float* const* queries, const uint16_t* keys, int size, float scaling,
                  float* const* scores) {
    Floats sums[Queries][Blocks];
    unrolled<Queries>([&](auto q) { unrolled<Blocks>([&](auto b) { sums[q][b] = zero(); }); });
    for (int i = 0; i < size; ++i) {
        Floats key[Blocks];
        unrolled<Blocks>([&](auto b) {
            key[b] = load_half(keys + (int64_t{b} * size + i) * kKeysTogether);
        });
        unrolled<Queries>([&](auto q) {
            const Floats number = all(queries[q][i]);
            unrolled<Blocks>([&](auto b) { sums[q][b] = fmadd(number, key[b], sums[q][b]); });
        });
    }
    unrolled<Queries>([&](auto q) {
        unrolled<Blocks>([&](auto b) { store(scores[q] + b * kKeysTogether, sums[q][b] * all(scaling)); });
    });
}

template <int Queries>
inline void weigh(const float* const* weights, const uint16_t* values, int size, int at, int begin,
                  int end, float* const* out) {
    constexpr int kParts = kSizeTogether / kLanes;
    Floats sums[Queries][kParts];
    unrolled<Queries>([&](auto q) { unrolled<kParts>([&](auto p) { sums[q][p] = zero(); }); });
    for (int key = begin; key < end; ++key) {
        Floats value[kParts];
        unrolled<kParts>([&](auto p) {
            value[p] = load_half(values + int64_t{key} * size + at + p * kLanes);
        });
        unrolled<Queries>([&](auto q) {
            const Floats weight = all(weights[q][key]);
            unrolled<kParts>([&](auto p) { sums[q][p] = fmadd(weight, value[p], sums[q][p]); });
        });
    }
    unrolled<Queries>([&](auto q) {
        unrolled<kParts>([&](auto p) { store(out[q] + at + p * kLanes, sums[q][p]); });
    });
}

/// Up to `kTogether` query vectors over the keys of one head.
struct Queries {
    const float* vectors[kTogether];
    float* scores[kTogether];
    float* out[kTogether];
    int positions[kTogether];
};

template <int Count>
void attend(const AttentionShape& shape, const Queries& queries, const uint16_t* keys,
            const uint16_t* values) {
    int last = 0, begin = shape.columns;
    for (int q = 0; q < Count; ++q) {
        last = std::max(last, queries.positions[q]);
        begin = std::min(begin, shape.window ? queries.positions[q] - shape.window + 1 : 0);
    }
    begin = std::max(begin, 0) / kKeysTogether;
    const int end = last / kKeysTogether + 1;
    constexpr int kBlocks = 4;
    float* at[Count];
    int block = begin;
    const auto scored = [&] {
        for (int q = 0; q < Count; ++q) at[q] = queries.scores[q] + block * kKeysTogether;
        return keys + int64_t{block} * kKeysTogether * shape.size;
    };
    for (; block + kBlocks <= end; block += kBlocks) {
        const uint16_t* from = scored();
        score<Count, kBlocks>(queries.vectors, from, shape.size, shape.scaling, at);
    }
    for (; block < end; ++block) {
        const uint16_t* from = scored();
        score<Count, 1>(queries.vectors, from, shape.size, shape.scaling, at);
    }
    const Ints lanes = load(kLaneNumbers);
    float inverse[Count];
    for (int q = 0; q < Count; ++q) {
        float* scores = queries.scores[q];
        const int position = queries.positions[q];
        const int lowest = shape.window ? position - shape.window + 1 : 0;
        Floats most = all(kNever);
        for (int b = begin; b < end; ++b) {
            float* p = scores + b * kKeysTogether;
            const int base = b * kKeysTogether;
            Floats s = where_at_most(lanes, all(int32_t{position - base}), load(p), all(kNever));
            s = where_at_most(all(int32_t{lowest - base}), lanes, s, all(kNever));
            store(p, s);
            most = larger(most, s);
        }
        const Floats top = all(largest(most));
        Floats total = zero();
        for (int b = begin; b < end; ++b) {
            float* p = scores + b * kKeysTogether;
            const Floats weight = exponential(load(p) - top);
            store(p, weight);
            total = total + weight;
        }
        inverse[q] = 1.0f / sum(total);
    }
    for (int part = 0; part < shape.size; part += kSizeTogether)
        weigh<Count>(queries.scores, values, shape.size, part, begin * kKeysTogether, last + 1, queries.out);
    for (int q = 0; q < Count; ++q)
        for (int i = 0; i < shape.size; i += kLanes)
            store(queries.out[q] + i, load(queries.out[q] + i) * all(inverse[q]));
}

template <int Count>
void attend_some(int count, const AttentionShape& shape, const Queries& queries, const uint16_t* keys,
                 const uint16_t* values) {
    if constexpr (Count > 0) {
        if (count == Count)
            attend<Count>(shape, queries, keys, values);
        else
            attend_some<Count - 1>(count, shape, queries, keys, values);
    }
}

}  // namespace

void Attention::run(Pool& pool, const AttentionShape& shape, const LayerCache& cache,
                    const std::vector<Segment>& segments, const float* qkv, int64_t stride, float* out) {
    struct Part {
        int segment, head, begin, end;  // tokens
    };
    std::vector<Part> parts;
    bool alone = true;  // no token sees another one of this pass
    for (int s = 0; s < static_cast<int>(segments.size()); ++s) {
        alone = alone && segments[s].count == 1;
        for (int begin = 0; begin < segments[s].count; begin += kTokensTogether)
            for (int head = 0; head < shape.kv_heads; ++head)
                parts.push_back({s, head, begin, std::min(begin + kTokensTogether, segments[s].count)});
    }
    if (!alone)
        pool.run(static_cast<int>(segments.size()) * shape.kv_heads, [&](int task, int) {
            keep(shape, cache, segments[task / shape.kv_heads], task % shape.kv_heads, qkv, stride);
        });
    // The last tokens of a prompt see most: whoever computes them should begin first.
    std::reverse(parts.begin(), parts.end());
    pool.run(static_cast<int>(parts.size()), [&](int task, int thread) {
        const Part& part = parts[task];
        const Segment& segment = segments[part.segment];
        if (alone) keep(shape, cache, segment, part.head, qkv, stride);
        const int64_t row = (int64_t{segment.row} * shape.kv_heads + part.head) * shape.columns * shape.size;
        auto& scores = scores_[thread];
        scores.resize(std::max(scores.size(), static_cast<size_t>(kTogether) * shape.columns));
        const int group = shape.heads / shape.kv_heads;
        Queries queries;
        int count = 0;
        for (int t = part.begin; t < part.end; ++t)
            for (int g = 0; g < group; ++g) {
                const int head = part.head * group + g;
                const int64_t token = segment.first + t;
                queries.vectors[count] = qkv + token * stride + head * shape.size;
                queries.out[count] = out + (token * shape.heads + head) * shape.size;
                queries.scores[count] = scores.data() + int64_t{count} * shape.columns;
                queries.positions[count] = segment.start + t;
                if (++count == kTogether || (t + 1 == part.end && g + 1 == group)) {
                    attend_some<kTogether>(count, shape, queries, cache.keys + row, cache.values + row);
                    count = 0;
                }
            }
    });
}

}  // namespace mv
