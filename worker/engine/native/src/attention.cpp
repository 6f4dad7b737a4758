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

void keep(const AttentionShape& shape, const LayerCache& cache, int row, int position,
          const float* token) {
    for (int head = 0; head < shape.kv_heads; ++head) {
        const int64_t at = (int64_t{row} * shape.kv_heads + head) * shape.columns * shape.size;
        const float* key = token + (shape.heads + head) * shape.size;
        const float* value = key + shape.kv_heads * shape.size;
        uint16_t half[kLanes];
        uint16_t* keys = cache.keys + at + int64_t{position / kKeysTogether} * kKeysTogether * shape.size;
        uint16_t* values = cache.values + at + int64_t{position} * shape.size;
        for (int i = 0; i < shape.size; i += kLanes) {
            store_finite(half, load(key + i));
            for (int j = 0; j < kLanes; ++j)
                keys[(i + j) * kKeysTogether + position % kKeysTogether] = half[j];
            store_finite(values + i, load(value + i));
        }
    }
}

void Attention::prepare(const AttentionShape& shape, const std::vector<Segment>& segments) {
    parts_.clear();
    for (const Segment& segment : segments)
        for (int begin = 0; begin < segment.count; begin += kTokensTogether)
            for (int head = 0; head < shape.kv_heads; ++head)
                parts_.push_back({segment.row, segment.start + begin, segment.first + begin,
                                  std::min(kTokensTogether, segment.count - begin), head});
    // The last tokens of a prompt see most: whoever computes them should begin first.
    std::reverse(parts_.begin(), parts_.end());
    for (Scratch& scratch : scratch_) {
        scratch.scores.resize(int64_t{kTogether} * shape.columns);
        scratch.out.resize(int64_t{kTokensTogether} * shape.heads / shape.kv_heads * shape.size);
    }
}

void Attention::run(Turn& turn, const AttentionShape& shape, const LayerCache& cache, const float* qkv,
                    int64_t stride, float* out) {
    Scratch& scratch = scratch_[turn.thread()];
    turn.race(tasks(), [&](int task, Claim& claim) {
        const Part& part = parts_[task];
        const int64_t row = (int64_t{part.row} * shape.kv_heads + part.head) * shape.columns * shape.size;
        const int group = shape.heads / shape.kv_heads, width = group * shape.size;
        Queries queries;
        int count = 0;
        for (int i = 0; i < part.count * group; ++i) {
            const int token = i / group, head = part.head * group + i % group;
            queries.vectors[count] = qkv + (part.first + token) * stride + head * shape.size;
            queries.out[count] = scratch.out.data() + int64_t{i} * shape.size;
            queries.scores[count] = scratch.scores.data() + int64_t{count} * shape.columns;
            queries.positions[count] = part.start + token;
            if (++count == kTogether || i + 1 == part.count * group) {
                if (claim.lost()) return;
                attend_some<kTogether>(count, shape, queries, cache.keys + row, cache.values + row);
                count = 0;
            }
        }
        if (!claim.take()) return;
        for (int t = 0; t < part.count; ++t)
            std::copy_n(scratch.out.data() + int64_t{t} * width, width,
                        out + (int64_t{part.first + t} * shape.kv_heads + part.head) * width);
    });
}

}  // namespace mv
