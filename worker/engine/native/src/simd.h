// Sixteen lanes of floats or of 32-bit integers, whatever the machine has for them.
//
// Every operation gives each lane the same bits on every level of a machine, and no lane depends
// on another one: what a token computes is then the same in any batch. Sums across lanes are made
// in one fixed order, and multiply-adds round once where `fmadd` says so and never elsewhere.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace mv {

constexpr int kLanes = 16;

/// Call `function` with the constants 0 to Count - 1: what a loop would do, but arrays that are
/// indexed by them become registers before the compiler looks at anything else.
template <int... I, class Function>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, I...>, const Function& function) {
    (function(std::integral_constant<int, I>{}), ...);
}
template <int Count, class Function>
[[gnu::always_inline]] inline void unrolled(const Function& function) {
    unrolled(std::make_integer_sequence<int, Count>{}, function);
}

#if defined(__AVX512F__)

struct Floats {
    __m512 v;
};
struct Ints {
    __m512i v;
};

inline Floats zero() { return {_mm512_setzero_ps()}; }
inline Floats all(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fmadd(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Ints all(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline void store(int32_t* p, Ints a) { _mm512_storeu_si512(p, a.v); }
inline Ints load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Ints to_nearest(Floats a) { return {_mm512_cvtps_epi32(a.v)}; }
inline void store_bytes(int8_t* p, Ints a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
inline Floats times_two_to(Floats a, Ints n) { return {_mm512_scalef_ps(a.v, _mm512_cvtepi32_ps(n.v))}; }
inline Floats load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(uint16_t* p, Floats a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/// `a` where `left <= right`, else `b`.
inline Floats where_at_most(Ints left, Ints right, Floats a, Floats b) {
    return {_mm512_mask_blend_ps(_mm512_cmple_epi32_mask(left.v, right.v), b.v, a.v)};
}
/// Lane i gets what lane i ^ `Distance` has.
template <int Distance>
inline Floats exchanged(Floats a) {
    if constexpr (Distance == 1) return {_mm512_permute_ps(a.v, 0xB1)};
    if constexpr (Distance == 2) return {_mm512_permute_ps(a.v, 0x4E)};
    if constexpr (Distance == 4) return {_mm512_shuffle_f32x4(a.v, a.v, 0xB1)};
    if constexpr (Distance == 8) return {_mm512_shuffle_f32x4(a.v, a.v, 0x4E)};
}

#elif defined(__AVX2__)

struct Floats {
    __m256 a, b;
};
struct Ints {
    __m256i a, b;
};

inline Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline Floats operator+(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Floats operator-(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Floats operator*(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Floats operator/(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Floats fmadd(Floats x, Floats y, Floats z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats larger(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Floats smaller(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Floats magnitude(Floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Ints all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints operator+(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline void store(int32_t* p, Ints x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline Ints load(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Ints to_nearest(Floats x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline void store_bytes(int8_t* p, Ints x) {
    alignas(32) int32_t lanes[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), x.a);
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + 8), x.b);
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}
inline Floats times_two_to(Floats x, Ints n) {
    const __m256i bias = _mm256_set1_epi32(127);
    const auto power = [&](__m256i e) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, bias), 23));
    };
    return {_mm256_mul_ps(x.a, power(n.a)), _mm256_mul_ps(x.b, power(n.b))};
}
inline Floats load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void store_half(uint16_t* p, Floats x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, kMode));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, kMode));
}
inline Floats where_at_most(Ints left, Ints right, Floats x, Floats y) {
    const auto more = [](__m256i l, __m256i r) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(l, r)); };
    return {_mm256_blendv_ps(x.a, y.a, more(left.a, right.a)),
            _mm256_blendv_ps(x.b, y.b, more(left.b, right.b))};
}
template <int Distance>
inline Floats exchanged(Floats x) {
    if constexpr (Distance == 1) return {_mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1)};
    if constexpr (Distance == 2) return {_mm256_permute_ps(x.a, 0x4E), _mm256_permute_ps(x.b, 0x4E)};
    if constexpr (Distance == 4)
        return {_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
    if constexpr (Distance == 8) return {x.b, x.a};
}

#else

// For the compiler to make vectors of.
struct Floats {
    float v[kLanes];
};
struct Ints {
    int32_t v[kLanes];
};

template <class Result, class Function>
inline Result each(Function function) {
    Result result;
    for (int i = 0; i < kLanes; ++i) result.v[i] = function(i);
    return result;
}

inline Floats all(float x) { return each<Floats>([&](int) { return x; }); }
inline Floats zero() { return all(0.0f); }
inline Floats load(const float* p) { return each<Floats>([&](int i) { return p[i]; }); }
inline void store(float* p, Floats a) { std::memcpy(p, a.v, sizeof a.v); }
inline Floats operator+(Floats a, Floats b) { return each<Floats>([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats operator-(Floats a, Floats b) { return each<Floats>([&](int i) { return a.v[i] - b.v[i]; }); }
inline Floats operator*(Floats a, Floats b) { return each<Floats>([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats operator/(Floats a, Floats b) { return each<Floats>([&](int i) { return a.v[i] / b.v[i]; }); }
#if defined(__ARM_NEON)
inline Floats fmadd(Floats a, Floats b, Floats c) {
    Floats result;
    for (int i = 0; i < kLanes; i += 4)
        vst1q_f32(result.v + i, vfmaq_f32(vld1q_f32(c.v + i), vld1q_f32(a.v + i), vld1q_f32(b.v + i)));
    return result;
}
#else
inline Floats fmadd(Floats a, Floats b, Floats c) { return a * b + c; }
#endif
inline Floats larger(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats smaller(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats magnitude(Floats a) { return each<Floats>([&](int i) { return std::fabs(a.v[i]); }); }
inline Ints all(int32_t x) { return each<Ints>([&](int) { return x; }); }
inline Ints operator+(Ints a, Ints b) { return each<Ints>([&](int i) { return a.v[i] + b.v[i]; }); }
inline void store(int32_t* p, Ints a) { std::memcpy(p, a.v, sizeof a.v); }
inline Ints load(const int32_t* p) { return each<Ints>([&](int i) { return p[i]; }); }
inline Floats to_floats(Ints a) { return each<Floats>([&](int i) { return static_cast<float>(a.v[i]); }); }
inline Ints to_nearest(Floats a) {
    return each<Ints>([&](int i) { return static_cast<int32_t>(std::nearbyintf(a.v[i])); });
}
inline void store_bytes(int8_t* p, Ints a) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
inline Floats times_two_to(Floats a, Ints n) {
    return each<Floats>([&](int i) {
        const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return a.v[i] * power;
    });
}
#if defined(__ARM_NEON)
inline Floats load_half(const uint16_t* p) {
    Floats result;
    for (int i = 0; i < kLanes; i += 4)
        vst1q_f32(result.v + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + i))));
    return result;
}
inline void store_half(uint16_t* p, Floats a) {
    for (int i = 0; i < kLanes; i += 4)
        vst1_u16(p + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(a.v + i))));
}
#else
inline float half_to_float(uint16_t half) {
    // Shift the exponent into place and let a multiplication set its bias; subnormals come right.
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFF) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 5.192296858534828e33f;  // 2 to 112
    return half & 0x8000 ? -value : value;
}
inline uint16_t float_to_half(float value) {  // to the nearest, ties to even; beyond 65504: infinity
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    bits &= 0x7FFFFFFF;
    if (bits >= 0x47800000) return sign | (bits > 0x7F800000 ? 0x7E00 : 0x7C00);
    if (bits < 0x38800000) {  // subnormal: an addition aligns it, and rounds
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, sizeof bits);
        return sign | static_cast<uint16_t>(bits - 0x3F000000);
    }
    bits += 0xC8000FFF + ((bits >> 13) & 1);
    return sign | static_cast<uint16_t>(bits >> 13);
}
inline Floats load_half(const uint16_t* p) {
    return each<Floats>([&](int i) { return half_to_float(p[i]); });
}
inline void store_half(uint16_t* p, Floats a) {
    for (int i = 0; i < kLanes; ++i) p[i] = float_to_half(a.v[i]);
}
#endif
inline Floats where_at_most(Ints left, Ints right, Floats a, Floats b) {
    return each<Floats>([&](int i) { return left.v[i] <= right.v[i] ? a.v[i] : b.v[i]; });
}
template <int Distance>
inline Floats exchanged(Floats a) {
    return each<Floats>([&](int i) { return a.v[i ^ Distance]; });
}

#endif

/// The lanes' sum, in one order on every machine.
inline float sum(Floats a) {
    a = a + exchanged<8>(a);
    a = a + exchanged<4>(a);
    a = a + exchanged<2>(a);
    a = a + exchanged<1>(a);
    float lanes[kLanes];
    store(lanes, a);
    return lanes[0];
}

inline float largest(Floats a) {
    a = larger(a, exchanged<8>(a));
    a = larger(a, exchanged<4>(a));
    a = larger(a, exchanged<2>(a));
    a = larger(a, exchanged<1>(a));
    float lanes[kLanes];
    store(lanes, a);
    return lanes[0];
}

/// e to the x, to about two units in the last place; 0 for what is below -87.5, minus infinity too.
///
/// Range reduction and polynomial as in Cephes' expf.
inline Floats exponential(Floats x) {
    const Floats lowest = all(-87.0f);
    const Floats bounded = smaller(larger(x, lowest), all(88.0f));
    const Floats n = to_floats(to_nearest(bounded * all(1.44269504088896341f)));
    Floats r = fmadd(n, all(-0.693359375f), bounded);
    r = fmadd(n, all(2.12194440e-4f), r);
    Floats p = all(1.9875691500e-4f);
    p = fmadd(p, r, all(1.3981999507e-3f));
    p = fmadd(p, r, all(8.3334519073e-3f));
    p = fmadd(p, r, all(4.1665795894e-2f));
    p = fmadd(p, r, all(1.6666665459e-1f));
    p = fmadd(p, r, all(5.0000001201e-1f));
    p = fmadd(p, r * r, r + all(1.0f));
    const Floats result = times_two_to(p, to_nearest(n));
    return where_at_most(to_nearest(larger(x, all(-1000.0f))), all(int32_t{-88}), zero(), result);
}

}  // namespace mv
