// What training and inference share about single tokens: sums over lanes, mean and deviation, GELU.
#pragma once

#include "math.hpp"

namespace {

#if defined(__clang__)
#define VMAMBA_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VMAMBA_PICK(a, b, ...) __builtin_shuffle(a, b, VecI{__VA_ARGS__})
#endif

// Lanes l of `a` + a[l ^ Bit] where l has not the bit, of `b` where it has.
template <int Bit>
VMAMBA_INLINE Vec fold_lanes(Vec a, Vec b) {
#if VMAMBA_LANES == 16
  if constexpr (Bit == 8) {
    return VMAMBA_PICK(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
           VMAMBA_PICK(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
  } else if constexpr (Bit == 4) {
    return VMAMBA_PICK(a, b, 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +
           VMAMBA_PICK(a, b, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  } else if constexpr (Bit == 2) {
    return VMAMBA_PICK(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
           VMAMBA_PICK(a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
  } else {
    return VMAMBA_PICK(a, b, 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31) +
           VMAMBA_PICK(a, b, 1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  }
#elif VMAMBA_LANES == 8
  if constexpr (Bit == 4) {
    return VMAMBA_PICK(a, b, 0, 1, 2, 3, 12, 13, 14, 15) + VMAMBA_PICK(a, b, 4, 5, 6, 7, 8, 9, 10, 11);
  } else if constexpr (Bit == 2) {
    return VMAMBA_PICK(a, b, 0, 1, 10, 11, 4, 5, 14, 15) + VMAMBA_PICK(a, b, 2, 3, 8, 9, 6, 7, 12, 13);
  } else {
    return VMAMBA_PICK(a, b, 0, 9, 2, 11, 4, 13, 6, 15) + VMAMBA_PICK(a, b, 1, 8, 3, 10, 5, 12, 7, 14);
  }
#else
  if constexpr (Bit == 2) {
    return VMAMBA_PICK(a, b, 0, 1, 6, 7) + VMAMBA_PICK(a, b, 2, 3, 4, 5);
  } else {
    return VMAMBA_PICK(a, b, 0, 5, 2, 7) + VMAMBA_PICK(a, b, 1, 4, 3, 6);
  }
#endif
}

// Lane i of the result is the sum over the lanes of v[i]; v is used up.
template <int Bit = kLanes / 2>
VMAMBA_INLINE Vec sums_of(Vec* v) {
  VMAMBA_UNROLL
  for (int i = 0; i < Bit; ++i) v[i] = fold_lanes<Bit>(v[i], v[i + Bit]);
  if constexpr (Bit > 1) return sums_of<Bit / 2>(v);
  return v[0];
}

// ---- layer norm ----------------------------------------------------------------------------------------------

VMAMBA_INLINE Vec square_root(Vec x) {
#if defined(__AVX512F__) && VMAMBA_LANES == 16
  return _mm512_sqrt_ps(x);
#elif defined(__AVX__) && VMAMBA_LANES == 8
  return _mm256_sqrt_ps(x);
#else
  VMAMBA_UNROLL
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Tokens whose statistics are finished together: as many as there are lanes.
constexpr int kNormTokens = kLanes;

// sum(x[0]) + ... over the vectors of a token.
template <class X, class Term>
VMAMBA_INLINE Vec sum_of(const X* x, int64_t channels, Term term) {
  Vec sum = term(load(x));
  for (int64_t c = kLanes; c < channels; c += kLanes) sum += term(load(x + c));
  return sum;
}

// finish(i, sums over channels of kLanes tokens from number i on) of `count` tokens that lie `pitch` numbers apart; the sum
// of token i is term(i, ...) of its vectors.
template <class X, class Term, class Finish>
VMAMBA_INLINE void token_sums(const X* x, int64_t count, int64_t pitch, int64_t channels, Term term, Finish finish) {
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    const int64_t live = count - begin < kLanes ? count - begin : kLanes;
    Vec sums[kLanes];
    if (live == kLanes) {
      VMAMBA_UNROLL
      for (int i = 0; i < kLanes; ++i) {
        sums[i] = sum_of(x + (begin + i) * pitch, channels, [&](Vec v) { return term(begin + i, v); });
      }
    } else {
      for (int i = 0; i < kLanes; ++i) {
        sums[i] = i < live ? sum_of(x + (begin + i) * pitch, channels, [&](Vec v) { return term(begin + i, v); }) : Vec{};
      }
    }
    finish(begin, sums_of(sums));
  }
}

// Mean and 1 / standard deviation of `count` tokens that lie `pitch` numbers apart; both have room for whole vectors.
template <class X>
VMAMBA_INLINE void token_statistics(const X* x, int64_t count, int64_t pitch, int64_t channels, float eps, float* mean,
                                    float* scale) {
  const float share = 1.0f / static_cast<float>(channels);
  token_sums(x, count, pitch, channels, [](int64_t, Vec v) { return v; },
             [&](int64_t i, Vec sums) { store(mean + i, sums * share); });
  token_sums(
      x, count, pitch, channels,
      [&](int64_t i, Vec v) {
        const Vec off = v - mean[i];
        return off * off;
      },
      [&](int64_t i, Vec sums) {
        const Vec variance = sums * share + eps;
        store(scale + i, 1.0f / square_root(variance) + 0.0f * variance);  // see inverse_deviation
      });
}

// ---- GELU --------------------------------------------------------------------------------------------------------

// erf(x / sqrt 2) as x p(x^2) / q(x^2), minimax in absolute error (2e-8 before rounding) up to 5.5 and exactly 1 behind,
// so that GELU far to the left is exactly zero. The normal distribution is 1/2 + 1/2 of it.
template <int T>
VMAMBA_INLINE void normal_erf(const Vec* x, Vec* erf) {
  Vec z[T], s[T], p[T], q[T];
  lockstep<T>([&](int i) { z[i] = at_least(-5.5f, at_most(5.5f, x[i])); });
  lockstep<T>([&](int i) { s[i] = z[i] * z[i]; });
  lockstep<T>([&](int i) { q[i] = s[i] * 1.1835263649118133e-6f + 7.517344056395814e-5f; });
  lockstep<T>([&](int i) { p[i] = s[i] * 4.44742731531278e-8f + 1.2735545169562101e-5f; });
  lockstep<T>([&](int i) { q[i] = q[i] * s[i] + 1.9136093324050307e-3f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 3.4785765456035733e-4f; });
  lockstep<T>([&](int i) { q[i] = q[i] * s[i] + 2.8942348435521126e-2f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 9.416661225259304e-3f; });
  lockstep<T>([&](int i) { q[i] = q[i] * s[i] + 2.5283125042915344e-1f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 6.875014305114746e-2f; });
  lockstep<T>([&](int i) { q[i] = q[i] * s[i] + 1.0f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 7.97884464263916e-1f; });
  lockstep<T>([&](int i) { erf[i] = at_least(-1.0f, at_most(1.0f, p[i] * z[i] * reciprocal(q[i]))); });
}

VMAMBA_INLINE Vec gelu_from(Vec x, Vec erf) { return 0.5f * x * erf + 0.5f * x; }

// GELU for what is rounded to bfloat16 anyway, off by 9e-5 at most: x (1/2 + z p(z^2)) with z = x cut off at 4.1, where
// z p(z^2) is 1/2.
template <int T>
VMAMBA_INLINE void gelu_rough(Vec* x) {
  Vec z[T], s[T], p[T];
  lockstep<T>([&](int i) { z[i] = at_least(-4.1f, at_most(4.1f, x[i])); });
  lockstep<T>([&](int i) { s[i] = z[i] * z[i]; });
  lockstep<T>([&](int i) { p[i] = s[i] * -8.483876934306522e-10f + 7.601246210242607e-08f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] - 2.95049858323182e-06f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 6.573175051016733e-05f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] - 0.0009422710863873363f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 0.00926605612039566f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] - 0.0654703676700592f; });
  lockstep<T>([&](int i) { p[i] = p[i] * s[i] + 0.39843127131462097f; });
  lockstep<T>([&](int i) { x[i] *= p[i] * z[i] + 0.5f; });
}

template <class X>
void gelu(const X* x, X* out, int64_t count) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vec value[2] = {load(x + i), load(x + i + kLanes)};
    Vec erf[2];
    normal_erf<2>(value, erf);
    store(out + i, gelu_from(value[0], erf[0]));
    store(out + i + kLanes, gelu_from(value[1], erf[1]));
  }
  if (i < count) {
    const Vec value = load(x + i);
    Vec erf;
    normal_erf<1>(&value, &erf);
    store(out + i, gelu_from(value, erf));
  }
}

}  // namespace
