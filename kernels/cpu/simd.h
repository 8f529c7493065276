// SPDX-License-Identifier: Apache-2.0
// One vocabulary of vector operations for the two instruction sets: 16 lanes of AVX-512 or 8 of
// AVX2, chosen by the flags of the including translation unit. Everything lives in a namespace
// named after the instruction set, so that the linker can never mix the copies. For the same reason
// units that include this stay clear of std:: functions that might not be inlined.
//
// Where one operand is NaN, max and min return their second one: write max(limit, x) to let a NaN
// in x through.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include <cstdint>
#include <limits>

#include "core/rng.h"

#if defined(__AVX512F__)
#define STIPPLE_SIMD avx512
#elif defined(__AVX2__)
#define STIPPLE_SIMD avx2
#else
#error "simd.h is for translation units compiled for AVX2 or AVX-512"
#endif

namespace stipple::kernels::cpu::STIPPLE_SIMD {

#if defined(__AVX512F__)

inline constexpr int kWidth = 16;
struct Floats {
  __m512 v;
};
struct Words {  ///< 32-bit integers, unsigned unless an operation says otherwise
  __m512i v;
};
struct Mask {
  __mmask16 m;
};

inline Mask mask_from_bits(uint32_t bits) { return {static_cast<__mmask16>(bits)}; }
inline uint32_t mask_bits(Mask a) { return a.m; }
inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
inline Mask operator!(Mask a) { return {static_cast<__mmask16>(~a.m)}; }

inline Floats splat(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Floats load(const float* p, Mask m) { return {_mm512_maskz_loadu_ps(m.m, p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, Floats a, Mask m) { _mm512_mask_storeu_ps(p, m.m, a.v); }
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats select(Mask m, Floats yes, Floats no) {
  return {_mm512_mask_blend_ps(m.m, no.v, yes.v)};
}
inline Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
/// a > b, or one of them is NaN.
inline Mask exceeds(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ)}; }
inline Floats gather(const float* base, Words index) {
  return {_mm512_i32gather_ps(index.v, base, 4)};
}
inline Floats square_root(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
inline float reduce_add(Floats a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(Floats a) { return _mm512_reduce_max_ps(a.v); }
inline float first_lane(Floats a) { return _mm512_cvtss_f32(a.v); }

inline Words splat_words(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
inline Words iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
inline Words load(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
inline Words load(const uint32_t* p, Mask m) { return {_mm512_maskz_loadu_epi32(m.m, p)}; }
inline void store(uint32_t* p, Words a) { _mm512_storeu_si512(p, a.v); }
inline void store(uint32_t* p, Words a, Mask m) { _mm512_mask_storeu_epi32(p, m.m, a.v); }
inline Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Words operator-(Words a, Words b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Words operator*(Words a, Words b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline Words xor3(Words a, Words b, Words c) {
  return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96)};
}
inline Words operator&(Words a, Words b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Words operator<<(Words a, int n) {
  return {_mm512_slli_epi32(a.v, static_cast<unsigned>(n))};
}
inline Words operator>>(Words a, int n) {
  return {_mm512_srli_epi32(a.v, static_cast<unsigned>(n))};
}
inline Mask equal(Words a, Words b) { return {_mm512_cmpeq_epu32_mask(a.v, b.v)}; }
inline Mask less(Words a, Words b) { return {_mm512_cmplt_epu32_mask(a.v, b.v)}; }
inline Words select(Mask m, Words yes, Words no) {
  return {_mm512_mask_blend_epi32(m.m, no.v, yes.v)};
}
inline Words gather(const uint32_t* base, Words index) {
  return {_mm512_i32gather_epi32(index.v, base, 4)};
}
inline Words bit_cast_words(Floats a) { return {_mm512_castps_si512(a.v)}; }
inline Floats bit_cast_floats(Words a) { return {_mm512_castsi512_ps(a.v)}; }
inline Floats to_floats(Words a) { return {_mm512_cvtepi32_ps(a.v)}; }  ///< of signed words
/// Uniform words as numbers in [0, kUniformScale].
inline constexpr float kUniformScale = 0x1p32f;
inline Floats uniform_floats(Words a) { return {_mm512_cvtepu32_ps(a.v)}; }
/// a >> n, lane by lane.
inline Words shift_right(Words a, Words n) { return {_mm512_srlv_epi32(a.v, n.v)}; }
inline Words load_u16(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

/// Towards zero, to signed words; 2^31 as unsigned for what does not fit.
inline Words truncate(Floats a) { return {_mm512_cvttps_epi32(a.v)}; }
/// 64-bit products of the even lanes; odd lanes are ignored.
inline Words multiply_even(Words a, Words b) { return {_mm512_mul_epu32(a.v, b.v)}; }
inline Words swap_neighbours(Words a) { return {_mm512_shuffle_epi32(a.v, _MM_PERM_CDAB)}; }
inline Words select_even(Words even, Words odd) {
  return {_mm512_mask_blend_epi32(0xAAAA, even.v, odd.v)};
}

/// The high and low 32 bits of a[lane] * b[lane].
inline void multiply_wide(Words a, Words b, Words& high, Words& low) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  high.v = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low.v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

/// p[e] = a[e], for lanes below 256.
inline void store_bytes(uint8_t* p, Words a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

/// The lanes of m, moved together, at p. Writes kWidth elements, whatever m is; returns how many
/// count.
inline int compress_store(float* p, Floats a, Mask m) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(m.m, a.v));
  return __builtin_popcount(m.m);
}
inline int compress_store(uint32_t* p, Words a, Mask m) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(m.m, a.v));
  return __builtin_popcount(m.m);
}

/// The reverse: consecutive elements at p in the lanes of m, 0 in the others. Reads kWidth elements.
inline Floats expand_load(const float* p, Mask m) {
  return {_mm512_maskz_expand_ps(m.m, _mm512_loadu_ps(p))};
}

/// Lane e of the result is the sum over a[e]. One shuffle and one blend a merge, against 4 shuffles
/// a lane if done one by one.
inline Floats reduce_add_each(const Floats (&a)[kWidth]) {
  // Merges leave the lanes in bit-reversed order; vector kOrder[e] is fed where vector e would be.
  constexpr int kOrder[kWidth] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};
  __m512 x[kWidth];
  for (int e = 0; e < 16; ++e) x[kOrder[e]] = a[e].v;
  for (int e = 0; e < 8; ++e) {
    x[e] = _mm512_add_ps(_mm512_shuffle_f32x4(x[e], x[e + 8], 0x4E),
                         _mm512_mask_blend_ps(0xFF00, x[e], x[e + 8]));
  }
  for (int e = 0; e < 4; ++e) {
    x[e] = _mm512_add_ps(_mm512_shuffle_f32x4(x[e], x[e + 4], 0x88),
                         _mm512_shuffle_f32x4(x[e], x[e + 4], 0xDD));
  }
  for (int e = 0; e < 2; ++e) {
    x[e] = _mm512_add_ps(_mm512_shuffle_ps(x[e], x[e + 2], 0x4E),
                         _mm512_mask_blend_ps(0xCCCC, x[e], x[e + 2]));
  }
  return {_mm512_add_ps(_mm512_shuffle_ps(x[0], x[1], 0x88), _mm512_shuffle_ps(x[0], x[1], 0xDD))};
}

/// p[4 e ... 4 e + 3] = a[e], b[e], c[e], d[e].
inline void store_interleaved(float* p, Floats a, Floats b, Floats c, Floats d) {
  const __m512 ab_low = _mm512_unpacklo_ps(a.v, b.v), ab_high = _mm512_unpackhi_ps(a.v, b.v);
  const __m512 cd_low = _mm512_unpacklo_ps(c.v, d.v), cd_high = _mm512_unpackhi_ps(c.v, d.v);
  const __m512 x0 = _mm512_shuffle_ps(ab_low, cd_low, 0x44);  // elements 0, 4, 8, 12
  const __m512 x1 = _mm512_shuffle_ps(ab_low, cd_low, 0xEE);  // elements 1, 5, 9, 13
  const __m512 x2 = _mm512_shuffle_ps(ab_high, cd_high, 0x44);
  const __m512 x3 = _mm512_shuffle_ps(ab_high, cd_high, 0xEE);
  const __m512 y0 = _mm512_shuffle_f32x4(x0, x1, 0x44), y1 = _mm512_shuffle_f32x4(x0, x1, 0xEE);
  const __m512 y2 = _mm512_shuffle_f32x4(x2, x3, 0x44), y3 = _mm512_shuffle_f32x4(x2, x3, 0xEE);
  _mm512_storeu_ps(p, _mm512_shuffle_f32x4(y0, y2, 0x88));
  _mm512_storeu_ps(p + 16, _mm512_shuffle_f32x4(y0, y2, 0xDD));
  _mm512_storeu_ps(p + 32, _mm512_shuffle_f32x4(y1, y3, 0x88));
  _mm512_storeu_ps(p + 48, _mm512_shuffle_f32x4(y1, y3, 0xDD));
}

inline Floats round_to_nearest(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// a 2^n for integral n; underflows to 0 and overflows to infinity.
inline Floats scale_by_power_of_two(Floats a, Floats n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#else  // AVX2

inline constexpr int kWidth = 8;
struct Floats {
  __m256 v;
};
struct Words {
  __m256i v;
};
struct Mask {
  __m256i m;  ///< all bits of a lane, or none
};

inline Mask mask_from_bits(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  return {_mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane)};
}
inline uint32_t mask_bits(Mask a) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(a.m)));
}
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_si256(a.m, b.m)}; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_si256(a.m, b.m)}; }
inline Mask operator!(Mask a) { return {_mm256_xor_si256(a.m, _mm256_set1_epi32(-1))}; }

inline Floats splat(float x) { return {_mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Floats load(const float* p, Mask m) { return {_mm256_maskload_ps(p, m.m)}; }
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline void store(float* p, Floats a, Mask m) { _mm256_maskstore_ps(p, m.m, a.v); }
inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Floats select(Mask m, Floats yes, Floats no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_castsi256_ps(m.m))};
}
inline Mask less(Floats a, Floats b) {
  return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
inline Mask exceeds(Floats a, Floats b) {
  return {_mm256_castps_si256(_mm256_cmp_ps(a.v, b.v, _CMP_NLE_UQ))};
}
inline Floats gather(const float* base, Words index) {
  return {_mm256_i32gather_ps(base, index.v, 4)};
}
inline Floats square_root(Floats a) { return {_mm256_sqrt_ps(a.v)}; }
inline float reduce_add(Floats a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float first_lane(Floats a) { return _mm256_cvtss_f32(a.v); }
inline float reduce_max(Floats a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline Words splat_words(uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
inline Words iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }
inline Words load(const uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline Words load(const uint32_t* p, Mask m) {
  return {_mm256_maskload_epi32(reinterpret_cast<const int*>(p), m.m)};
}
inline void store(uint32_t* p, Words a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline void store(uint32_t* p, Words a, Mask m) {
  _mm256_maskstore_epi32(reinterpret_cast<int*>(p), m.m, a.v);
}
inline Words operator+(Words a, Words b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Words operator-(Words a, Words b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline Words operator*(Words a, Words b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
inline Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.v, b.v)}; }
inline Words xor3(Words a, Words b, Words c) { return a ^ b ^ c; }
inline Words operator&(Words a, Words b) { return {_mm256_and_si256(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {_mm256_or_si256(a.v, b.v)}; }
inline Words operator<<(Words a, int n) { return {_mm256_slli_epi32(a.v, n)}; }
inline Words operator>>(Words a, int n) { return {_mm256_srli_epi32(a.v, n)}; }
inline Mask equal(Words a, Words b) { return {_mm256_cmpeq_epi32(a.v, b.v)}; }
inline Mask less(Words a, Words b) {
  return !Mask{_mm256_cmpeq_epi32(_mm256_max_epu32(a.v, b.v), a.v)};
}
inline Words select(Mask m, Words yes, Words no) { return {_mm256_blendv_epi8(no.v, yes.v, m.m)}; }
inline Words gather(const uint32_t* base, Words index) {
  return {_mm256_i32gather_epi32(reinterpret_cast<const int*>(base), index.v, 4)};
}
inline Words bit_cast_words(Floats a) { return {_mm256_castps_si256(a.v)}; }
inline Floats bit_cast_floats(Words a) { return {_mm256_castsi256_ps(a.v)}; }
inline Floats to_floats(Words a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline constexpr float kUniformScale = 0x1p31f;
inline Floats uniform_floats(Words a) { return to_floats(a >> 1); }
inline Words shift_right(Words a, Words n) { return {_mm256_srlv_epi32(a.v, n.v)}; }
inline Words load_u16(const uint16_t* p) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

inline Words truncate(Floats a) { return {_mm256_cvttps_epi32(a.v)}; }
inline Words multiply_even(Words a, Words b) { return {_mm256_mul_epu32(a.v, b.v)}; }
inline Words swap_neighbours(Words a) { return {_mm256_shuffle_epi32(a.v, 0xB1)}; }
inline Words select_even(Words even, Words odd) {
  return {_mm256_blend_epi32(even.v, odd.v, 0xAA)};
}

inline void multiply_wide(Words a, Words b, Words& high, Words& low) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32));
  high.v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low.v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

inline void store_bytes(uint8_t* p, Words a) {
  const __m256i bytes = _mm256_shuffle_epi8(
      a.v, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8,
                            12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const uint32_t halves[2] = {
      static_cast<uint32_t>(_mm256_cvtsi256_si32(bytes)),
      static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1)))};
  memcpy(p, halves, sizeof halves);
}

// Byte k of the result is the k-th set lane of the mask: one pdep and one pext instead of a table.
inline __m256i compress_order(uint32_t bits) {
  const uint64_t bytes = _pdep_u64(bits, 0x0101010101010101ull) * 0xFF;
  const uint64_t order = _pext_u64(0x0706050403020100ull, bytes);
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(order)));
}
inline int compress_store(float* p, Floats a, Mask m) {
  const uint32_t bits = mask_bits(m);
  _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(a.v, compress_order(bits)));
  return __builtin_popcount(bits);
}
inline int compress_store(uint32_t* p, Words a, Mask m) {
  const uint32_t bits = mask_bits(m);
  store(p, Words{_mm256_permutevar8x32_epi32(a.v, compress_order(bits))});
  return __builtin_popcount(bits);
}

inline Floats expand_load(const float* p, Mask m) {
  const uint64_t bytes = _pdep_u64(mask_bits(m), 0x0101010101010101ull) * 0xFF;
  const uint64_t order = _pdep_u64(0x0706050403020100ull, bytes);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(order)));
  const __m256 moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), lanes);
  return {_mm256_and_ps(moved, _mm256_castsi256_ps(m.m))};
}

inline Floats reduce_add_each(const Floats (&a)[kWidth]) {
  const __m256 x = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  const __m256 y = _mm256_hadd_ps(_mm256_hadd_ps(a[4].v, a[5].v), _mm256_hadd_ps(a[6].v, a[7].v));
  return {_mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31))};
}

inline void store_interleaved(float* p, Floats a, Floats b, Floats c, Floats d) {
  const __m256 ab_low = _mm256_unpacklo_ps(a.v, b.v), ab_high = _mm256_unpackhi_ps(a.v, b.v);
  const __m256 cd_low = _mm256_unpacklo_ps(c.v, d.v), cd_high = _mm256_unpackhi_ps(c.v, d.v);
  const __m256 x0 = _mm256_shuffle_ps(ab_low, cd_low, 0x44);  // elements 0, 4
  const __m256 x1 = _mm256_shuffle_ps(ab_low, cd_low, 0xEE);  // elements 1, 5
  const __m256 x2 = _mm256_shuffle_ps(ab_high, cd_high, 0x44);
  const __m256 x3 = _mm256_shuffle_ps(ab_high, cd_high, 0xEE);
  _mm256_storeu_ps(p, _mm256_permute2f128_ps(x0, x1, 0x20));
  _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(x2, x3, 0x20));
  _mm256_storeu_ps(p + 16, _mm256_permute2f128_ps(x0, x1, 0x31));
  _mm256_storeu_ps(p + 24, _mm256_permute2f128_ps(x2, x3, 0x31));
}

inline Floats round_to_nearest(Floats a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// In two factors: 2^128 is not a float, but exp reaches n = 128 just below its overflow.
inline Floats scale_by_power_of_two(Floats a, Floats n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i e) {
    const __m256i biased = _mm256_add_epi32(e, _mm256_set1_epi32(127));
    return Floats{_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
  };
  return a * power(half) * power(_mm256_sub_epi32(whole, half));
}

#endif

inline Mask first_lanes(int64_t n) {
  return mask_from_bits(n >= kWidth ? (1u << kWidth) - 1 : (1u << n) - 1);
}

/// e^x, relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN for NaN.
inline Floats exp(Floats x) {
  const Floats lowest = splat(-87.33f);
  const Mask vanishes = less(x, lowest);
  const Floats clamped = min(splat(89.0f), max(lowest, x));
  const Floats n = round_to_nearest(clamped * splat(1.44269504089f));
  // ln 2 in two parts, so that n ln 2 is subtracted without rounding.
  Floats r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  // Cephes expf: 1 + r + r^2 P(r) on |r| <= ln 2 / 2.
  Floats p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  return select(vanishes, splat(0.0f), scale_by_power_of_two(p, n));
}

/// The natural one of positive x that are not subnormal, relative error below 2e-7 (Cephes logf).
inline Floats logarithm(Floats x) {
  // x = m 2^n with m in [sqrt(1/2), sqrt(2)).
  const Words bits = bit_cast_words(x);
  const Words n = ((bits + splat_words(0x004AFB0Du)) >> 23) - splat_words(127);
  const Floats m = bit_cast_floats(bits - (n << 23)) - splat(1.0f);
  Floats p = splat(7.0376836292e-2f);
  p = fma(p, m, splat(-1.1514610310e-1f));
  p = fma(p, m, splat(1.1676998740e-1f));
  p = fma(p, m, splat(-1.2420140846e-1f));
  p = fma(p, m, splat(1.4249322787e-1f));
  p = fma(p, m, splat(-1.6668057665e-1f));
  p = fma(p, m, splat(2.0000714765e-1f));
  p = fma(p, m, splat(-2.4999993993e-1f));
  p = fma(p, m, splat(3.3333331174e-1f));
  const Floats square = m * m;
  const Floats exponent = to_floats(n);
  p = p * square * m;
  p = fma(exponent, splat(-2.12194440e-4f), p);
  p = fma(square, splat(-0.5f), p);
  return fma(exponent, splat(0.693359375f), p + m);
}

/// Philox4x32-10 on kWidth counters at once: the four words of each, as in core/rng.h.
struct PhiloxWords {
  Words w[4];
};

/// The keys of all rounds, in memory, from where an instruction spreads one over its lanes for free.
struct PhiloxKeys {
  explicit PhiloxKeys(PhiloxKey key) {
    for (int round = 0; round < philox::kRounds; ++round) {
      k0[round] = key.k0 + static_cast<uint32_t>(round) * philox::kWeyl0;
      k1[round] = key.k1 + static_cast<uint32_t>(round) * philox::kWeyl1;
    }
  }
  uint32_t k0[philox::kRounds];
  uint32_t k1[philox::kRounds];
};

/// The counters of the even lanes, and those of the odd lanes moved to the even ones. On the even
/// lanes alone a round is six instructions: products stay 64 bits wide, the odd lanes hold
/// left-overs.
struct PhiloxHalves {
  PhiloxWords half[2];
};

inline void philox_round(PhiloxWords& c, Words key0, Words key1) {
  const Words p0 = multiply_even(splat_words(philox::kMultiplier0), c.w[0]);
  const Words p1 = multiply_even(splat_words(philox::kMultiplier1), c.w[2]);
  c = {{xor3(swap_neighbours(p1), c.w[1], key0), p1, xor3(swap_neighbours(p0), c.w[3], key1), p0}};
}

// The last round puts the halves together.
inline PhiloxWords last_philox_round(const PhiloxHalves& c, const PhiloxKeys& keys) {
  constexpr int kLast = philox::kRounds - 1;
  const auto low_words = [](Words even, Words odd) {
    return select_even(even, swap_neighbours(odd));
  };
  const auto high_words = [](Words even, Words odd) {
    return select_even(swap_neighbours(even), odd);
  };
  const PhiloxWords& even = c.half[0];
  const PhiloxWords& odd = c.half[1];
  const Words m0 = splat_words(philox::kMultiplier0);
  const Words m1 = splat_words(philox::kMultiplier1);
  const Words p0_even = multiply_even(m0, even.w[0]), p0_odd = multiply_even(m0, odd.w[0]);
  const Words p1_even = multiply_even(m1, even.w[2]), p1_odd = multiply_even(m1, odd.w[2]);
  return {{xor3(high_words(p1_even, p1_odd), low_words(even.w[1], odd.w[1]),
                splat_words(keys.k0[kLast])),
           low_words(p1_even, p1_odd),
           xor3(high_words(p0_even, p0_odd), low_words(even.w[3], odd.w[3]),
                splat_words(keys.k1[kLast])),
           low_words(p0_even, p0_odd)}};
}

/// Rounds `round` and on, for kCount times kWidth counters side by side: one is too few for the
/// multipliers not to wait.
template <size_t kCount>
void finish_philox(PhiloxHalves (&c)[kCount], const PhiloxKeys& keys, int round,
                   PhiloxWords (&result)[kCount]) {
#pragma GCC unroll 10
  for (; round < philox::kRounds - 1; ++round) {
    const Words key0 = splat_words(keys.k0[round]);
    const Words key1 = splat_words(keys.k1[round]);
#pragma GCC unroll 2
    for (PhiloxHalves& each : c) {
      philox_round(each.half[0], key0, key1);
      philox_round(each.half[1], key0, key1);
    }
  }
#pragma GCC unroll 2
  for (size_t e = 0; e < kCount; ++e) result[e] = last_philox_round(c[e], keys);
}

inline PhiloxWords philox4x32(const PhiloxWords& c, const PhiloxKeys& keys) {
  PhiloxHalves halves[1] = {{{c, c}}};
  for (Words& word : halves[0].half[1].w) word = swap_neighbours(word);
  PhiloxWords result[1];
  finish_philox(halves, keys, 0, result);
  return result[0];
}
inline PhiloxWords philox4x32(const PhiloxWords& c, PhiloxKey key) {
  return philox4x32(c, PhiloxKeys(key));
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
