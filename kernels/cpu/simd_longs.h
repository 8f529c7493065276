// SPDX-License-Identifier: Apache-2.0
// simd.h's vocabulary for 64-bit lanes: 8 of AVX-512 or 4 of AVX2.
#pragma once

#include <string.h>

#include "kernels/cpu/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

#if defined(__AVX512F__)

inline constexpr int kLongWidth = 8;
struct Longs {
  __m512i v;
};
struct Doubles {
  __m512d v;
};
struct LongMask {
  __mmask8 m;
};

inline uint32_t mask_bits(LongMask a) { return a.m; }
inline LongMask operator&(LongMask a, LongMask b) { return {static_cast<__mmask8>(a.m & b.m)}; }
inline LongMask operator!(LongMask a) { return {static_cast<__mmask8>(~a.m)}; }

inline Longs splat_longs(int64_t x) { return {_mm512_set1_epi64(x)}; }
inline Longs long_iota() { return {_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)}; }
inline Longs load(const uint64_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store(uint64_t* p, Longs a) { _mm512_storeu_si512(p, a.v); }
inline Longs widen(const uint32_t* p) {
  return {_mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
/// The lower halves.
inline void store_narrow(uint32_t* p, Longs a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(a.v));
}
inline Longs operator+(Longs a, Longs b) { return {_mm512_add_epi64(a.v, b.v)}; }
inline Longs operator&(Longs a, Longs b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Longs operator|(Longs a, Longs b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Longs operator<<(Longs a, int n) {
  return {_mm512_slli_epi64(a.v, static_cast<unsigned>(n))};
}
inline Longs operator>>(Longs a, int n) {
  return {_mm512_srli_epi64(a.v, static_cast<unsigned>(n))};
}
/// 64-bit products of the lower halves.
inline Longs multiply_low(Longs a, Longs b) { return {_mm512_mul_epu32(a.v, b.v)}; }
inline LongMask less(Longs a, Longs b) { return {_mm512_cmplt_epi64_mask(a.v, b.v)}; }
inline Longs select(LongMask m, Longs yes, Longs no) {
  return {_mm512_mask_blend_epi64(m.m, no.v, yes.v)};
}
/// Objects of 8 bytes at `base`, of any type.
inline Longs gather(const void* base, Longs index) {
  return {_mm512_i64gather_epi64(index.v, base, 8)};
}
inline void scatter(void* base, Longs index, Longs a, LongMask m) {
  _mm512_mask_i64scatter_epi64(base, m.m, index.v, a.v, 8);
}

inline Doubles splat_doubles(double x) { return {_mm512_set1_pd(x)}; }
inline Doubles load(const double* p) { return {_mm512_loadu_pd(p)}; }
inline Doubles operator+(Doubles a, Doubles b) { return {_mm512_add_pd(a.v, b.v)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline LongMask less(Doubles a, Doubles b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Doubles select(LongMask m, Doubles yes, Doubles no) {
  return {_mm512_mask_blend_pd(m.m, no.v, yes.v)};
}
/// Of integers from 0 to 2^52, and back, towards zero.
inline Doubles to_doubles(Longs a) { return {_mm512_cvtepi64_pd(a.v)}; }
inline Longs truncate(Doubles a) { return {_mm512_cvttpd_epi64(a.v)}; }

#else  // AVX2

inline constexpr int kLongWidth = 4;
struct Longs {
  __m256i v;
};
struct Doubles {
  __m256d v;
};
struct LongMask {
  __m256i m;  ///< all bits of a lane, or none
};

inline uint32_t mask_bits(LongMask a) {
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(a.m)));
}
inline LongMask operator&(LongMask a, LongMask b) { return {_mm256_and_si256(a.m, b.m)}; }
inline LongMask operator!(LongMask a) { return {_mm256_xor_si256(a.m, _mm256_set1_epi32(-1))}; }

inline Longs splat_longs(int64_t x) { return {_mm256_set1_epi64x(x)}; }
inline Longs long_iota() { return {_mm256_setr_epi64x(0, 1, 2, 3)}; }
inline Longs load(const uint64_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline void store(uint64_t* p, Longs a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline Longs widen(const uint32_t* p) {
  return {_mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store_narrow(uint32_t* p, Longs a) {
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(a.v, even)));
}
inline Longs operator+(Longs a, Longs b) { return {_mm256_add_epi64(a.v, b.v)}; }
inline Longs operator&(Longs a, Longs b) { return {_mm256_and_si256(a.v, b.v)}; }
inline Longs operator|(Longs a, Longs b) { return {_mm256_or_si256(a.v, b.v)}; }
inline Longs operator<<(Longs a, int n) { return {_mm256_slli_epi64(a.v, n)}; }
inline Longs operator>>(Longs a, int n) { return {_mm256_srli_epi64(a.v, n)}; }
inline Longs multiply_low(Longs a, Longs b) { return {_mm256_mul_epu32(a.v, b.v)}; }
inline LongMask less(Longs a, Longs b) { return {_mm256_cmpgt_epi64(b.v, a.v)}; }
inline Longs select(LongMask m, Longs yes, Longs no) {
  return {_mm256_blendv_epi8(no.v, yes.v, m.m)};
}
inline Longs gather(const void* base, Longs index) {
  return {_mm256_i64gather_epi64(static_cast<const long long*>(base), index.v, 8)};
}
inline void scatter(void* base, Longs index, Longs a, LongMask m) {
  uint64_t at[kLongWidth], value[kLongWidth];
  store(at, index);
  store(value, a);
  const uint32_t bits = mask_bits(m);
  for (int lane = 0; lane < kLongWidth; ++lane) {
    if (bits >> lane & 1) memcpy(static_cast<char*>(base) + at[lane] * 8, value + lane, 8);
  }
}

inline Doubles splat_doubles(double x) { return {_mm256_set1_pd(x)}; }
inline Doubles load(const double* p) { return {_mm256_loadu_pd(p)}; }
inline Doubles operator+(Doubles a, Doubles b) { return {_mm256_add_pd(a.v, b.v)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {_mm256_sub_pd(a.v, b.v)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {_mm256_mul_pd(a.v, b.v)}; }
inline LongMask less(Doubles a, Doubles b) {
  return {_mm256_castpd_si256(_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ))};
}
inline Doubles select(LongMask m, Doubles yes, Doubles no) {
  return {_mm256_blendv_pd(no.v, yes.v, _mm256_castsi256_pd(m.m))};
}
// The lower bits of the double 2^52 + a are a.
inline constexpr int64_t kMagicBits = 0x4330000000000000;
inline constexpr double kMagic = 0x1p52;
inline Doubles to_doubles(Longs a) {
  return Doubles{_mm256_castsi256_pd((a | splat_longs(kMagicBits)).v)} - splat_doubles(kMagic);
}
inline Longs truncate(Doubles a) {
  const Doubles whole = Doubles{_mm256_floor_pd(a.v)} + splat_doubles(kMagic);
  return {_mm256_xor_si256(_mm256_castpd_si256(whole.v), splat_longs(kMagicBits).v)};
}

#endif

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
