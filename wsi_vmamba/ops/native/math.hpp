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

// How exactly step sizes and decays are found: coefficients of q in 2^f = 1 + f q(f), and of Q in log2(1 + e) = e Q(e)
// for e in [0, 1], highest first, minimax in the relative error of the whole. f is in [0, 1) or in [-1/2, 1/2], as the
// machine splits numbers; f = 0 is exact.
struct Exact {
#if defined(__AVX512DQ__) && VMAMBA_LANES == 16
  static constexpr float decay[] = {1.8671300495043397e-3f, 9.017030708491802e-3f, 5.579991266131401e-2f,
                                    2.4016444385051727e-1f, 6.931512951850891e-1f};
#else
  static constexpr float decay[] = {1.326469937339425e-3f, 9.671533480286598e-3f, 5.550733953714371e-2f,
                                    2.4022242426872253e-1f, 6.931470036506653e-1f};
#endif
  static constexpr const auto& tail = decay;  // of the e that goes into Q
  static constexpr float log[] = {7.549182046204805e-3f,   -4.256706312298775e-2f, 1.128561943769455e-1f,
                                  -1.9711896777153015e-1f, 2.7564141154289246e-1f, -3.5840848088264465e-1f,
                                  4.8069295287132263e-1f,  -7.213401794433594e-1f, 1.4426950216293335f};
};

// For maps that are kept in bfloat16, whose numbers are off by up to 2e-3: a step size is by 1.6e-4 at most. A decay is
// by 4e-6 at most, and near 1, where it is taken to high powers, its distance from 1 by 2e-4 of itself.
struct Rough {
#if defined(__AVX512DQ__) && VMAMBA_LANES == 16
  static constexpr float decay[] = {1.3555746525526047e-2f, 5.203237012028694e-2f, 2.413797676563263e-1f,
                                    6.930321455001831e-1f};  // f = 1 is exact too: a decay near 1 has f near 1
  static constexpr float tail[] = {7.706703990697861e-2f, 2.2764499485492706e-1f, 6.951167583465576e-1f};
#else
  static constexpr float decay[] = {9.582852944731712e-3f, 5.590642616152763e-2f, 2.4024099111557007e-1f,
                                    6.931241750717163e-1f};
  static constexpr float tail[] = {5.500893294811249e-2f, 2.4221095442771912e-1f, 6.932829022407532e-1f};
#endif
  static constexpr float log[] = {5.9651535004377365e-2f, -2.2711941599845886e-1f, 4.4189879298210144e-1f,
                                  -7.169874310493469e-1f, 1.4426132440567017f};
};

// How exactly what is kept in this storage is found.
template <class X>
struct GradeOf {
  typedef Exact type;
};
template <>
struct GradeOf<Bf16> {
  typedef Rough type;
};
template <class X>
using grade_of = typename GradeOf<X>::type;

#if defined(__AVX512DQ__) && VMAMBA_LANES == 16
// f in [0, 1); 0 for infinities.
VMAMBA_INLINE Vec exp2_fraction(Vec x) { return _mm512_reduce_ps(x, 0x09); }

// power * 2^floor(x), with infinities, underflow and NaN as they should be.
VMAMBA_INLINE Vec exp2_scale(Vec power, Vec x) { return _mm512_scalef_ps(power, x); }
#else
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

// q[t] = the polynomial of x[t] with these coefficients, highest first.
template <int T, int N>
VMAMBA_INLINE void polynomial(const float (&coefficients)[N], const Vec* x, Vec* q) {
  lockstep<T>([&](int t) { q[t] = x[t] * coefficients[0] + coefficients[1]; });
  VMAMBA_UNROLL
  for (int i = 2; i < N; ++i) {
    lockstep<T>([&](int t) { q[t] = q[t] * x[t] + coefficients[i]; });
  }
}

// x[t] becomes 2^x[t] for x <= 126. Below -126 the result is at most 2^-126, but may be larger than the true one; no sum
// notices.
template <int T, int N>
VMAMBA_INLINE void exp2_by(const float (&coefficients)[N], Vec* x) {
  Vec f[T], q[T];
  lockstep<T>([&](int t) { f[t] = exp2_fraction(x[t]); });
  polynomial<T>(coefficients, f, q);
  lockstep<T>([&](int t) { q[t] = q[t] * f[t] + 1.0f; });
  lockstep<T>([&](int t) { x[t] = exp2_scale(q[t], x[t]); });
}

// With a relative error below 2e-7, or below 4e-6.
template <int T, class Grade = Exact>
VMAMBA_INLINE void exp2_bounded(Vec* x) {
  exp2_by<T>(Grade::decay, x);
}

// z[t] becomes log2(1 + 2^z[t]), the softplus of base 2, as max(z, 0) + log2(1 + e) with e = 2^-|z| in [0, 1].
// The logarithm is e times a polynomial, so that tiny e keep their relative accuracy.
template <int T, class Grade>
VMAMBA_INLINE void softplus2_from(Vec* z, const Vec* e) {
  Vec q[T];
  polynomial<T>(Grade::log, e, q);
  lockstep<T>([&](int t) { z[t] = q[t] * e[t] + at_least(0.0f, z[t]); });
}

template <int T, class Grade = Exact>
VMAMBA_INLINE void softplus2(Vec* z) {
  Vec e[T];
  lockstep<T>([&](int t) { e[t] = negative_abs(z[t]); });
  exp2_by<T>(Grade::tail, e);
  softplus2_from<T, Grade>(z, e);
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

// x[t] becomes x[t] / (1 + exp(-x[t])); below -87 it is as small as there. Divisions have a unit of their own, which is idle
// otherwise.
template <int T, class Grade = Exact>
VMAMBA_INLINE void silu(Vec* x) {
  Vec e[T];
  lockstep<T>([&](int t) { x[t] = at_least(-87.0f, x[t]); });
  lockstep<T>([&](int t) { e[t] = x[t] * -kLog2e; });
  exp2_bounded<T, Grade>(e);
  lockstep<T>([&](int t) { x[t] = x[t] / (1.0f + e[t]); });
}

VMAMBA_INLINE Vec silu(Vec x) {
  silu<1>(&x);
  return x;
}

// 1 / standard deviation; NaN where the variance has overflowed, which else would pass for numbers without any spread.
VMAMBA_INLINE float inverse_deviation(float variance) { return 1.0f / __builtin_sqrtf(variance) + 0.0f * variance; }

}  // namespace
