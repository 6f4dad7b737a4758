#include "linear.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

#include "simd.h"

namespace mv {

namespace {

constexpr int kPanels = kBlock / kLanes;
/// Rows whose activations stay in a core's cache while a block of weights goes by.
constexpr int kRowsTogether = 48;
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
#else
constexpr int kTileRows = 3;
constexpr int kTilePanels = 1;
#endif

// What four inputs add to each of 16 outputs. x86 multiplies unsigned by signed bytes, so there
// weights are stored with 128 added, which `kOffset` takes away again; ARM multiplies signed ones.
#if defined(__AVX512VNNI__)
constexpr int kOffset = 128;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    // Not _mm512_dpbusd_epi32: GCC 12 copies each sum to another register and back.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(_mm512_loadu_si512(weights)), "v"(four.v));
    return sum;
}
#elif defined(__AVX512BW__)
constexpr int kOffset = 128;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    const __m512i w = _mm512_loadu_si512(weights);
    const __m512i even = _mm512_maddubs_epi16(_mm512_and_si512(w, _mm512_set1_epi16(0x00FF)), four.v);
    const __m512i odd = _mm512_maddubs_epi16(_mm512_andnot_si512(_mm512_set1_epi16(0x00FF), w), four.v);
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i both = _mm512_add_epi32(_mm512_madd_epi16(even, one), _mm512_madd_epi16(odd, one));
    return {_mm512_add_epi32(sum.v, both)};
}
#elif defined(__AVXVNNI__)
constexpr int kOffset = 128;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    const auto half = [](__m256i s, const uint8_t* w, __m256i f) {
        return _mm256_dpbusd_avx_epi32(s, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), f);
    };
    return {half(sum.a, weights, four.a), half(sum.b, weights + 32, four.b)};
}
#elif defined(__AVX2__)
constexpr int kOffset = 128;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    // Two products of a pair would not fit 16 bits, so every other one is left out in turn.
    const auto half = [](__m256i s, const uint8_t* p, __m256i f) {
        const __m256i low = _mm256_set1_epi16(0x00FF), one = _mm256_set1_epi16(1);
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i even = _mm256_maddubs_epi16(_mm256_and_si256(low, w), f);
        const __m256i odd = _mm256_maddubs_epi16(_mm256_andnot_si256(low, w), f);
        const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(even, one), _mm256_madd_epi16(odd, one));
        return _mm256_add_epi32(s, both);
    };
    return {half(sum.a, weights, four.a), half(sum.b, weights + 32, four.b)};
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int kOffset = 0;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    const int8x16_t f = vreinterpretq_s8_s32(vld1q_s32(four.v));
    for (int i = 0; i < kLanes; i += 4) {
        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(weights + 4 * i));
        vst1q_s32(sum.v + i, vdotq_s32(vld1q_s32(sum.v + i), w, f));
    }
    return sum;
}
#else
constexpr int kOffset = 0;
inline Ints dot(Ints sum, const uint8_t* weights, Ints four) {
    int8_t f[4];
    std::memcpy(f, four.v, sizeof f);
    const int8_t* w = reinterpret_cast<const int8_t*>(weights);
    for (int i = 0; i < kLanes; ++i)
        for (int j = 0; j < 4; ++j) sum.v[i] += w[4 * i + j] * f[j];
    return sum;
}
#endif

/// Which of a pair's lanes is taken away from the other: those with this bit in their number.
alignas(64) constexpr float kSigns[4][kLanes] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
};

/// y = H x / 8 for each 64 inputs, H the Hadamard matrix of order 64. Its own inverse.
inline void turn(float* x) {
    Floats a = load(x), b = load(x + 16), c = load(x + 32), d = load(x + 48);
    const auto across = [](Floats& p, Floats& q) {
        const Floats sum = p + q;
        q = p - q;
        p = sum;
    };
    across(a, b);
    across(c, d);
    across(a, c);
    across(b, d);
    const auto within = [](Floats v) {
        v = fmadd(v, load(kSigns[0]), exchanged<1>(v));
        v = fmadd(v, load(kSigns[1]), exchanged<2>(v));
        v = fmadd(v, load(kSigns[2]), exchanged<4>(v));
        v = fmadd(v, load(kSigns[3]), exchanged<8>(v));
        return v * all(0.125f);
    };
    store(x, within(a));
    store(x + 16, within(b));
    store(x + 32, within(c));
    store(x + 48, within(d));
}

inline float largest_magnitude(const float* x, int count) {
    Floats most = zero();
    for (int i = 0; i < count; i += kLanes) most = larger(most, magnitude(load(x + i)));
    return largest(most);
}

inline int32_t quantize(const float* x, int count, float inverse, int8_t* out) {
    Ints sums = all(int32_t{0});
    for (int i = 0; i < count; i += kLanes) {
        const Ints nearest = to_nearest(load(x + i) * all(inverse));
        store_bytes(out + i, nearest);
        sums = sums + nearest;
    }
    int32_t lanes[kLanes];
    store(lanes, sums);
    return std::accumulate(lanes, lanes + kLanes, int32_t{0});
}

inline Floats silu(Floats x) { return x / (all(1.0f) + exponential(zero() - x)); }

/// A tile of `Rows` rows and `Panels` times 16 outputs, from panel `panel` of a block on.
template <int Rows, int Panels>
inline void tile(const Weights& weights, int block, int panel, const Activations& in, int first,
                 Floats (&product)[Rows][Panels]) {
    const int inputs = weights.inputs(), group = weights.group(), groups = weights.groups();
    const int8_t* rows[Rows];
    for (int r = 0; r < Rows; ++r) rows[r] = in.row(first + r, inputs);
    const uint8_t* next = weights.block(block) + panel * kLanes * 4;
    for (int r = 0; r < Rows; ++r)
        for (int p = 0; p < Panels; ++p) product[r][p] = load(weights.bias(block) + (panel + p) * kLanes);
    for (int g = 0; g < groups; ++g) {
        Ints sums[Rows][Panels];
        unrolled<Rows>([&](auto r) {
            const Ints offset = all(-kOffset * in.sum(first + r, g, groups));
            unrolled<Panels>([&](auto p) { sums[r][p] = offset; });
        });
        for (int k = g * group; k < (g + 1) * group; k += 4) {
            unrolled<Rows>([&](auto r) {
                int32_t four;
                std::memcpy(&four, rows[r] + k, sizeof four);
                const Ints repeated = all(four);
                unrolled<Panels>([&](auto p) {
                    sums[r][p] = dot(sums[r][p], next + p * kLanes * 4, repeated);
                });
            });
            next += kBlock * 4;
        }
        const float* scales = weights.scales(block) + g * kBlock + panel * kLanes;
        unrolled<Rows>([&](auto r) {
            const Floats scale = all(in.scale(first + r, g, groups));
            unrolled<Panels>([&](auto p) {
                product[r][p] =
                    fmadd(to_floats(sums[r][p]), load(scales + p * kLanes) * scale, product[r][p]);
            });
        });
    }
}

/// What a task computes before it may write: rows of a block, [kRowsTogether][kBlock]. Of gated
/// outputs half as many.
struct alignas(64) Results {
    float numbers[kRowsTogether * kBlock];
    float* row(int i) { return numbers + i * kBlock; }
};

template <int Rows>
void rows_of_block(const Weights& weights, int block, const Activations& in, int first, Into into,
                   float* out) {
    if (into == Into::kGatedSilu) {
        constexpr int kPairs = kTilePanels > 1 ? kTilePanels : 2;
        for (int panel = 0; panel < kPanels; panel += kPairs) {
            Floats product[Rows][kPairs];
            tile<Rows, kPairs>(weights, block, panel, in, first, product);
            for (int r = 0; r < Rows; ++r)
                for (int p = 0; p < kPairs; p += 2)
                    store(out + r * kBlock + (panel + p) / 2 * kLanes,
                          silu(product[r][p]) * product[r][p + 1]);
        }
        return;
    }
    for (int panel = 0; panel < kPanels; panel += kTilePanels) {
        Floats product[Rows][kTilePanels];
        tile<Rows, kTilePanels>(weights, block, panel, in, first, product);
        for (int r = 0; r < Rows; ++r)
            for (int p = 0; p < kTilePanels; ++p)
                store(out + r * kBlock + (panel + p) * kLanes, product[r][p]);
    }
}

template <int Rows>
void rest_of_block(int rows, const Weights& weights, int block, const Activations& in, int first,
                   Into into, float* out) {
    if constexpr (Rows > 0) {
        if (rows == Rows)
            rows_of_block<Rows>(weights, block, in, first, into, out);
        else
            rest_of_block<Rows - 1>(rows, weights, block, in, first, into, out);
    }
}

/// Write or add the first `count` numbers; `from` has room for a multiple of `kLanes`.
inline void put(float* out, const float* from, int count, bool add) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(out + i, add ? load(out + i) + load(from + i) : load(from + i));
    for (; i < count; ++i) out[i] = add ? out[i] + from[i] : from[i];
}

uint8_t* map(int64_t size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, size, MADV_HUGEPAGE);  // all of it is read in every step
#endif
    return static_cast<uint8_t*>(memory);
}

}  // namespace

int group_of(int inputs) {
    for (int group = 256; group > kTurned; group -= kTurned)
        if (inputs % group == 0) return group;
    return kTurned;
}

void Weights::Unmap::operator()(uint8_t* p) const { munmap(p, size); }

Weights::Weights(Pool& pool, const float* rows, const float* bias, int outputs, int inputs)
    : outputs_(outputs),
      inputs_(inputs),
      blocks_((outputs + kBlock - 1) / kBlock),
      group_(group_of(inputs)),
      bytes_(map(int64_t{blocks_} * kBlock * inputs), Unmap{int64_t{blocks_} * kBlock * inputs}),
      scales_(int64_t{blocks_} * kBlock * groups()),
      bias_(int64_t{blocks_} * kBlock) {
    if (bias != nullptr) std::copy(bias, bias + outputs, bias_.begin());
    pool.run(blocks_, [&](int block) {
        for (int i = block * kBlock; i < std::min((block + 1) * kBlock, outputs_); ++i)
            pack_row(rows + int64_t{i} * inputs_, i);
    });
}

void Weights::pack_row(const float* row, int output) {
    std::vector<float> turned(row, row + inputs_);
    std::vector<int8_t> bytes(inputs_);
    const int block = output / kBlock, lane = output % kBlock;
    for (int k = 0; k < inputs_; k += kTurned) turn(turned.data() + k);
    for (int g = 0; g < groups(); ++g) {
        const float most = largest_magnitude(turned.data() + g * group_, group_);
        scales_[(int64_t{block} * groups() + g) * kBlock + lane] = most / 127;
        quantize(turned.data() + g * group_, group_, most > 0 ? 127 / most : 0, bytes.data() + g * group_);
    }
    uint8_t* out = bytes_.get() + int64_t{block} * kBlock * inputs_ + lane * 4;
    for (int k = 0; k < inputs_; k += 4, out += kBlock * 4)
        for (int j = 0; j < 4; ++j) out[j] = static_cast<uint8_t>(bytes[k + j] + kOffset);
}

int64_t Weights::bytes() const {
    const int64_t numbers = static_cast<int64_t>(scales_.size() + bias_.size());
    return int64_t{blocks_} * kBlock * inputs_ + numbers * static_cast<int64_t>(sizeof(float));
}

void Activations::reserve(int rows, int inputs) {
    const size_t numbers = static_cast<size_t>(rows) * inputs;
    if (bytes_.size() < numbers) {
        bytes_.resize(numbers);
        scales_.resize(numbers / kTurned);
        sums_.resize(numbers / kTurned);
    }
}

void Activations::set(int row, const float* values, const float* gain, float factor, int inputs,
                      int group) {
    alignas(64) float turned[256];
    const int groups = inputs / group;
    int8_t* out = bytes_.data() + int64_t{row} * inputs;
    for (int g = 0; g < groups; ++g) {
        const float* from = values + g * group;
        for (int k = 0; k < group; k += kLanes) {
            Floats v = load(from + k) * all(factor);
            if (gain != nullptr) v = v * load(gain + g * group + k);
            store(turned + k, v);
        }
        for (int k = 0; k < group; k += kTurned) turn(turned + k);
        const float most = largest_magnitude(turned, group);
        scales_[int64_t{row} * groups + g] = most / 127;
        sums_[int64_t{row} * groups + g] =
            quantize(turned, group, most > 0 ? 127 / most : 0, out + g * group);
    }
}

int tasks_of(const Weights& weights, int rows) {
    return weights.blocks() * ((rows + kRowsTogether - 1) / kRowsTogether);
}

void multiply(Turn& turn, const Weights& weights, const Activations& in, int rows, Into into,
              float* out, int64_t stride) {
    const int chunks = (rows + kRowsTogether - 1) / kRowsTogether;
    const int width = into == Into::kGatedSilu ? kBlock / 2 : kBlock;
    const int outputs = into == Into::kGatedSilu ? weights.outputs() / 2 : weights.outputs();
    Results results;
    turn.race(weights.blocks() * chunks, [&](int task, Claim& claim) {
        const int block = task / chunks, begin = task % chunks * kRowsTogether;
        const int end = std::min(rows, begin + kRowsTogether);
        int first = begin;
        for (; first + kTileRows <= end && !claim.lost(); first += kTileRows)
            rows_of_block<kTileRows>(weights, block, in, first, into, results.row(first - begin));
        rest_of_block<kTileRows - 1>(end - first, weights, block, in, first, into,
                                     results.row(first - begin));
        if (!claim.take()) return;
        for (int r = begin; r < end; ++r)
            put(out + r * stride + block * width, results.row(r - begin),
                std::min(width, outputs - block * width), into == Into::kAdd);
    });
}

}  // namespace mv
