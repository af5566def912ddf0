// 2^x, log2(1 + 2^x) and the logistic function for vectors of floats; error bounds are in README.md and tested.
#pragma once

#include "simd.hpp"

namespace {

// The functions below work on several vectors in lockstep: one polynomial step for all of them, then the next.
// That gives the machine independent work in program order; left to itself it would wait on one long chain.
template <int T, class Step>
VMAMBA_INLINE void lockstep(Step step) {
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) step(t);
}

// 2^x is split as 2^i (1 + f q(f)) with f = x - i. The coefficients of q, highest first, are minimax in the
// relative error of the whole for the range of f that the machine's way of splitting gives; f = 0 is exact.
#if defined(__AVX512DQ__) && VMAMBA_LANES == 16
constexpr float kExp2[] = {1.8671300495043397e-3f, 9.017030708491802e-3f, 5.579991266131401e-2f,
                           2.4016444385051727e-1f, 6.931512951850891e-1f};

// f in [0, 1); 0 for infinities.
VMAMBA_INLINE Vec exp2_fraction(Vec x) { return _mm512_reduce_ps(x, 0x09); }

// power * 2^floor(x), with infinities, underflow and NaN as they should be.
VMAMBA_INLINE Vec exp2_scale(Vec power, Vec x) { return _mm512_scalef_ps(power, x); }
#else
constexpr float kExp2[] = {1.326469937339425e-3f, 9.671533480286598e-3f, 5.550733953714371e-2f,
                           2.4022242426872253e-1f, 6.931470036506653e-1f};

// Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits of the sum.
constexpr float kRound = 12582912.0f;

// f in [-1/2, 1/2].
VMAMBA_INLINE Vec exp2_fraction(Vec x) {
  const Vec bounded = at_least(-126.0f, x);
  return bounded - ((bounded + kRound) - kRound);
}

// A multiplication, so that a NaN stays a NaN whatever its bits.
VMAMBA_INLINE Vec exp2_scale(Vec power, Vec x) {
  const VecI whole = bits_as<VecI>(at_least(-126.0f, x) + kRound);
  return power * bits_as<Vec>((whole << 23) + 0x3f800000);
}
#endif

// x[t] becomes 2^x[t] for x <= 126, relative error below 2e-7. Below -126 the result is at most 2^-126, but may
// be larger than the true one; no sum notices.
template <int T>
VMAMBA_INLINE void exp2_bounded(Vec* x) {
  Vec f[T], q[T];
  lockstep<T>([&](int t) { f[t] = exp2_fraction(x[t]); });
  lockstep<T>([&](int t) { q[t] = f[t] * kExp2[0] + kExp2[1]; });
  lockstep<T>([&](int t) { q[t] = q[t] * f[t] + kExp2[2]; });
  lockstep<T>([&](int t) { q[t] = q[t] * f[t] + kExp2[3]; });
  lockstep<T>([&](int t) { q[t] = q[t] * f[t] + kExp2[4]; });
  lockstep<T>([&](int t) { q[t] = q[t] * f[t] + 1.0f; });
  lockstep<T>([&](int t) { x[t] = exp2_scale(q[t], x[t]); });
}

// z[t] becomes log2(1 + 2^z[t]), the softplus of base 2, as max(z, 0) + log2(1 + e) with e = 2^-|z| in [0, 1].
// The logarithm is e times a polynomial, so that tiny e keep their relative accuracy.
template <int T>
VMAMBA_INLINE void softplus2_from(Vec* z, const Vec* e) {
  Vec q[T];
  lockstep<T>([&](int t) { q[t] = e[t] * 7.549182046204805e-3f - 4.256706312298775e-2f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] + 1.128561943769455e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] - 1.9711896777153015e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] + 2.7564141154289246e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] - 3.5840848088264465e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] + 4.8069295287132263e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] - 7.213401794433594e-1f; });
  lockstep<T>([&](int t) { q[t] = q[t] * e[t] + 1.4426950216293335f; });
  lockstep<T>([&](int t) { z[t] = q[t] * e[t] + at_least(0.0f, z[t]); });
}

template <int T>
VMAMBA_INLINE void softplus2(Vec* z) {
  Vec e[T];
  lockstep<T>([&](int t) { e[t] = negative_abs(z[t]); });
  exp2_bounded<T>(e);
  softplus2_from<T>(z, e);
}

VMAMBA_INLINE Vec exp2_bounded(Vec x) {
  exp2_bounded<1>(&x);
  return x;
}

VMAMBA_INLINE Vec softplus2(Vec z) {
  softplus2<1>(&z);
  return z;
}

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 1 / x for positive x far from the ends of the range, to a rounding or two.
VMAMBA_INLINE Vec reciprocal(Vec x) {
#if defined(__AVX512F__) && VMAMBA_LANES == 16
  const Vec guess = _mm512_rcp14_ps(x);
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

// x / (1 + exp(-x)).
VMAMBA_INLINE Vec silu(Vec x) {
  return x / (1.0f + exp2_bounded(at_most(126.0f, x * -kLog2e)));
}

// 1 / standard deviation; NaN where the variance has overflowed, which else would pass for numbers without any spread.
VMAMBA_INLINE float inverse_deviation(float variance) { return 1.0f / __builtin_sqrtf(variance) + 0.0f * variance; }

}  // namespace
