// A vector of floats as wide as the instruction set this file is compiled for, through GCC/Clang vector types.
//
// VMAMBA_LANES is set by the build. Arithmetic operators work on these types directly, also against a scalar,
// and the compiler contracts a * b + c to a fused multiply-add where the machine has one.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

#ifndef VMAMBA_LANES
#error "VMAMBA_LANES (floats per vector: 16, 8 or 4) must be defined by the build"
#endif
#define VMAMBA_INLINE static inline __attribute__((always_inline))
#define VMAMBA_MEMBER inline __attribute__((always_inline))
#if defined(__clang__)
#define VMAMBA_UNROLL _Pragma("unroll")
#else
#define VMAMBA_UNROLL _Pragma("GCC unroll 16")
#endif

namespace {

constexpr int kLanes = VMAMBA_LANES;
static_assert(vmamba::kBlock % kLanes == 0, "a block of channels must be whole vectors");

typedef float Vec __attribute__((vector_size(4 * VMAMBA_LANES)));
typedef int32_t VecI __attribute__((vector_size(4 * VMAMBA_LANES)));
typedef uint32_t VecU __attribute__((vector_size(4 * VMAMBA_LANES)));
typedef uint16_t VecH __attribute__((vector_size(2 * VMAMBA_LANES)));

// Bits of a bfloat16, a type of its own so that overloads can tell it from integers.
struct Bf16 {
  uint16_t bits;
};

template <class To, class From>
VMAMBA_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

VMAMBA_INLINE Vec splat(float value) { return value - Vec{}; }

VMAMBA_INLINE Vec load(const float* from) {
  Vec value;
  memcpy(&value, from, sizeof value);
  return value;
}

VMAMBA_INLINE void store(float* to, Vec value) { memcpy(to, &value, sizeof value); }

VMAMBA_INLINE Vec load(const Bf16* from) {
  VecH half;
  memcpy(&half, from, sizeof half);
  return bits_as<Vec>(__builtin_convertvector(half, VecU) << 16);
}

// Round to nearest even; a NaN stays a NaN (made quiet), which plain rounding could turn into an infinity.
VMAMBA_INLINE void store(Bf16* to, Vec value) {
#if defined(__AVX512BF16__) && VMAMBA_LANES == 16
  const __m256bh half = _mm512_cvtneps_pbh(value);
  memcpy(to, &half, sizeof half);
#else
  const VecU bits = bits_as<VecU>(value);
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU quiet = (bits >> 16) | 0x40u;
  const VecU is_nan = bits_as<VecU>(value != value);
  const VecH half = __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), VecH);
  memcpy(to, &half, sizeof half);
#endif
}

// The first `count` lanes from memory, zeros after them; nothing behind the end is touched.
template <class X>
VMAMBA_INLINE Vec load_some(const X* from, int64_t count) {
  X padded[kLanes];
  memset(padded, 0, sizeof padded);
  memcpy(padded, from, sizeof(X) * static_cast<size_t>(count));
  return load(padded);
}

#if defined(__AVX512F__) && VMAMBA_LANES == 16
VMAMBA_INLINE __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

VMAMBA_INLINE Vec load_some(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(first_lanes(count), from); }

VMAMBA_INLINE void store_some(float* to, Vec value, int64_t count) { _mm512_mask_storeu_ps(to, first_lanes(count), value); }
#endif

template <class X>
VMAMBA_INLINE void store_some(X* to, Vec value, int64_t count) {
  X padded[kLanes];
  store(padded, value);
  memcpy(to, padded, sizeof(X) * static_cast<size_t>(count));
}

// `x` with zeros behind its first `count` lanes.
VMAMBA_INLINE Vec keep_some(Vec x, int64_t count) {
  float lanes[kLanes];
  store(lanes, x);
  return load_some(lanes, count);
}

// Whole vectors on the fast path, the first `count` lanes where channels end inside a vector.
template <bool Tail, class X>
VMAMBA_INLINE Vec load_channels(const X* from, int64_t count) {
  if constexpr (Tail) return load_some(from, count);
  return load(from);
}

template <bool Tail, class X>
VMAMBA_INLINE void store_channels(X* to, Vec value, int64_t count) {
  if constexpr (Tail) {
    store_some(to, value, count);
  } else {
    store(to, value);
  }
}

// The larger of `bound` and `x`; a NaN in `x` comes out (the order of the operands matters).
VMAMBA_INLINE Vec at_least(float bound, Vec x) {
#if defined(__AVX512F__) && VMAMBA_LANES == 16
  return _mm512_max_ps(splat(bound), x);
#elif defined(__AVX__) && VMAMBA_LANES == 8
  return _mm256_max_ps(splat(bound), x);
#elif defined(__SSE2__) && VMAMBA_LANES == 4
  return _mm_max_ps(splat(bound), x);
#else
  const Vec limit = splat(bound);
  return limit > x ? limit : x;
#endif
}

// The smaller, likewise.
VMAMBA_INLINE Vec at_most(float bound, Vec x) {
#if defined(__AVX512F__) && VMAMBA_LANES == 16
  return _mm512_min_ps(splat(bound), x);
#elif defined(__AVX__) && VMAMBA_LANES == 8
  return _mm256_min_ps(splat(bound), x);
#elif defined(__SSE2__) && VMAMBA_LANES == 4
  return _mm_min_ps(splat(bound), x);
#else
  const Vec limit = splat(bound);
  return limit < x ? limit : x;
#endif
}

VMAMBA_INLINE Vec negative_abs(Vec x) { return bits_as<Vec>(bits_as<VecU>(x) | 0x80000000u); }

VMAMBA_INLINE float sum_lanes(Vec x) {
#if defined(__AVX512F__) && VMAMBA_LANES == 16
  return _mm512_reduce_add_ps(x);
#else
  float lanes[kLanes];
  store(lanes, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

}  // namespace
