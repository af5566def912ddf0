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

// term(x[0]) + ... over the vectors of a token.
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

#if defined(__AVX512F__) && VMAMBA_LANES == 16
// The normal distribution less 1/2 of |x|, as a polynomial of degree 4 around the centre of each of 15 pieces 0.3535 wide and
// 1/2 behind: coefficients, highest first, minimax in absolute error (1e-7). One register holds a coefficient of all pieces.
constexpr float kPiece = 0.3535f;
alignas(64) constexpr float kNormal[5][16] = {
    {0.00851013325f, 0.0206510089f, 0.0219185036f, 0.01401952f, 0.00355580123f, -0.00373317976f,
     -0.00616598409f, -0.0052703619f, -0.00330372318f, -0.00165412598f, -0.000685513893f, -0.000239596076f,
     -7.14235866e-05f, -1.82936747e-05f, -4.04656021e-06f, 0.0f},
    {-0.0630566403f, -0.0413707383f, -0.00994682219f, 0.016185334f, 0.0285032615f, 0.0278183948f,
     0.0203021578f, 0.0119697219f, 0.00588926114f, 0.00245944643f, 0.000880647567f, 0.000272145408f,
     7.29113526e-05f, 1.69903342e-05f, 3.45206468e-06f, 0.0f},
    {-0.034708973f, -0.0918956399f, -0.119290829f, -0.114796661f, -0.0895360112f, -0.0585868545f,
     -0.0327136815f, -0.0157391354f, -0.00656392798f, -0.00238238764f, -0.000754636771f, -0.000209034653f,
     -5.07118093e-05f, -1.07873666e-05f, -2.01386456e-06f, 0.0f},
    {0.392756313f, 0.34662056f, 0.269970417f, 0.185570076f, 0.112571508f, 0.0602664873f,
     0.0284739956f, 0.0118725309f, 0.00436875736f, 0.00141869264f, 0.00040656628f, 0.000102821112f,
     2.29475045e-05f, 4.51946607e-06f, 7.85471855e-07f, 0.0f},
    {0.0701476187f, 0.202030689f, 0.311584413f, 0.392002881f, 0.444167078f, 0.47406736f,
     0.489211977f, 0.495990276f, 0.498670995f, 0.499607801f, 0.499897093f, 0.499976009f,
     0.499995023f, 0.499999076f, 0.499999851f, 0.5f}};
alignas(64) constexpr float kCentres[16] = {
    0.176750004f, 0.530250013f, 0.883750021f, 1.23725009f, 1.59074998f, 1.94425011f,
    2.29775f, 2.65125012f, 3.00475001f, 3.35825014f, 3.71175003f, 4.06524992f,
    4.41875029f, 4.77225018f, 5.12575006f, 5.47924995f};

// The same before bfloat16, of degree 2 in |x| itself: within 4e-5.
constexpr float kRoughPiece = 0.2734f;
alignas(64) constexpr float kRoughNormal[3][16] = {
    {-0.0268578921f, -0.0747923329f, -0.107407384f, -0.120278448f, -0.114803024f, -0.0966986567f,
     -0.0731059238f, -0.0500893258f, -0.0312903561f, -0.0178930964f, -0.00939255767f, -0.00453510275f,
     -0.00201723143f, -0.000827555778f, -0.000313408091f, 0.0f},
    {0.401671171f, 0.427400082f, 0.46227172f, 0.482533753f, 0.469873577f, 0.419989526f,
     0.342497736f, 0.25452283f, 0.172511116f, 0.106809892f, 0.0605139025f, 0.0314235575f,
     0.0149777457f, 0.00656119781f, 0.00264450884f, 0.0f},
    {-4.11077272e-05f, -0.00356588606f, -0.0129324291f, -0.0209131893f, -0.0136088645f, 0.0207785834f,
     0.0844461173f, 0.168546602f, 0.258020431f, 0.338591397f, 0.401638567f, 0.445199579f,
     0.472057551f, 0.486945182f, 0.494405031f, 0.5f}};

VMAMBA_INLINE Vec piece_of(const float* table, __m512i piece) { return _mm512_permutexvar_ps(piece, load(table)); }

// GELU of x by pieces of that width: Phi - 1/2 is a polynomial of N coefficients in |x|, less the centre of its piece where
// Centred. A NaN stays one.
template <int T, bool Centred, int N>
VMAMBA_INLINE void gelu_by(float width, const float (&normal)[N][16], Vec* x) {
  constexpr float kWhole = 8388608.0f;  // added to a number, leaves its whole part in the low bits
  Vec size[T], t[T], h[T];
  __m512i piece[T];
  lockstep<T>([&](int i) { size[i] = bits_as<Vec>(bits_as<VecU>(x[i]) & 0x7fffffffu); });
  lockstep<T>([&](int i) { t[i] = at_most(15.9f * width, size[i]); });
  lockstep<T>([&](int i) {
    const Vec sum = _mm512_fmadd_round_ps(t[i], splat(1.0f / width), splat(kWhole), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    piece[i] = _mm512_castps_si512(sum);
  });
  if constexpr (Centred) lockstep<T>([&](int i) { t[i] -= piece_of(kCentres, piece[i]); });
  lockstep<T>([&](int i) { h[i] = piece_of(normal[0], piece[i]); });
  VMAMBA_UNROLL
  for (int j = 1; j < N; ++j) {
    lockstep<T>([&](int i) { h[i] = h[i] * t[i] + piece_of(normal[j], piece[i]); });
  }
  lockstep<T>([&](int i) { x[i] = size[i] * h[i] + 0.5f * x[i]; });
}

// GELU, off by 2e-7 of |x| at most; exactly 0 far to the left.
template <int T>
VMAMBA_INLINE void gelu_exact(Vec* x) { gelu_by<T, true>(kPiece, kNormal, x); }

// GELU for what is rounded to bfloat16 anyway, off by 1e-4 at most.
template <int T>
VMAMBA_INLINE void gelu_rough(Vec* x) { gelu_by<T, false>(kRoughPiece, kRoughNormal, x); }
#else
// GELU, off by 2e-7 of |x| at most (2.4e-7 without fused multiply-adds); exactly 0 far to the left.
template <int T>
VMAMBA_INLINE void gelu_exact(Vec* x) {
  Vec erf[T];
  normal_erf<T>(x, erf);
  lockstep<T>([&](int i) { x[i] = gelu_from(x[i], erf[i]); });
}

// GELU for what is rounded to bfloat16 anyway, off by 1e-4 at most: x (1/2 + z p(z^2)) with z = x cut off at 4.1, where
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
#endif

// As training has it, with whose gradient it shares erf: off by 2.5e-7 of itself.
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
