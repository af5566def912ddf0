// 2^x, log2(1 + 2^x) and the logistic function for vectors of floats; error bounds are in README.md and tested.
#pragma once

#include "simd.hpp"

namespace {

// 2^x for x <= 126, relative error below 2e-7. Below -126 the result is 2^-126 instead of something smaller,
// which no sum notices; a NaN stays a NaN because the last step is a multiplication.
VMAMBA_INLINE Vec exp2_bounded(Vec x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits of the sum.
  constexpr float kRound = 12582912.0f;
  const Vec clamped = at_least(-126.0f, x);
  const Vec shifted = clamped + kRound;
  const Vec fraction = clamped - (shifted - kRound);
  // 2^f = 1 + f q(f) on [-1/2, 1/2], minimax in relative error; exact at 0.
  Vec q = splat(1.326469937339425e-3f);
  q = q * fraction + 9.671533480286598e-3f;
  q = q * fraction + 5.550733953714371e-2f;
  q = q * fraction + 2.4022242426872253e-1f;
  q = q * fraction + 6.931470036506653e-1f;
  const Vec power = q * fraction + 1.0f;
  const VecI scale = (bits_as<VecI>(shifted) << 23) + 0x3f800000;
  return power * bits_as<Vec>(scale);
}

// log2(1 + e) for e in [0, 1]: e times a polynomial, so that tiny e keep their relative accuracy.
VMAMBA_INLINE Vec log2_one_plus(Vec e) {
  Vec q = splat(7.549182046204805e-3f);
  q = q * e - 4.256706312298775e-2f;
  q = q * e + 1.128561943769455e-1f;
  q = q * e - 1.9711896777153015e-1f;
  q = q * e + 2.7564141154289246e-1f;
  q = q * e - 3.5840848088264465e-1f;
  q = q * e + 4.8069295287132263e-1f;
  q = q * e - 7.213401794433594e-1f;
  q = q * e + 1.4426950216293335f;
  return q * e;
}

// Softplus in base 2: log2(1 + 2^z) = max(z, 0) + log2(1 + 2^-|z|).
VMAMBA_INLINE Vec softplus2(Vec z) {
  return at_least(0.0f, z) + log2_one_plus(exp2_bounded(negative_abs(z)));
}

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// x / (1 + exp(-x)).
VMAMBA_INLINE Vec silu(Vec x) {
  return x / (1.0f + exp2_bounded(at_most(126.0f, x * -kLog2e)));
}

}  // namespace
