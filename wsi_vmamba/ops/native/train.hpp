// Operators of training around the scan, with their gradients: layer norm, GELU, depthwise 3x3 with SiLU, channels last.
// Channels are whole blocks. What a gradient needs is computed again from the operator's input, which is in the cache
// anyway; gradients of weights are added to.
#pragma once

#include "walk.hpp"

namespace {

// ---- layer norm ----------------------------------------------------------------------------------------------

// Mean and 1 / standard deviation of each token, kept for the gradient.
struct Moments {
  float *mean, *scale;
};

template <class X>
void train_norm(const X* x, X* out, const float* weight, const float* bias, float eps, const Moments& kept,
                int64_t tokens, int64_t channels) {
  float mean[kLanes], scale[kLanes];
  for (int64_t begin = 0; begin < tokens; begin += kNormTokens) {
    const int64_t count = begin + kNormTokens < tokens ? kNormTokens : tokens - begin;
    token_statistics(x, count, channels, channels, eps, mean, scale);
    memcpy(kept.mean + begin, mean, sizeof(float) * static_cast<size_t>(count));
    memcpy(kept.scale + begin, scale, sizeof(float) * static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i, x += channels, out += channels) {
      for (int64_t c = 0; c < channels; c += kLanes) {
        store(out + c, (load(x + c) - mean[i]) * scale[i] * load(weight + c) + load(bias + c));
      }
    }
  }
}

// T tokens: the sums over channels that the gradient of x needs, and the tokens' shares of those of weight and bias.
template <int T, class X>
VMAMBA_INLINE void norm_sums(const X* x, const X* dy, const float* weight, const float* mean, const float* scale,
                             int64_t channels, float* dweight, float* dbias, Vec* plain, Vec* product) {
  Vec first[T] = {}, second[T] = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Vec w = load(weight + c);
    Vec to_weight = load(dweight + c), to_bias = load(dbias + c);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) {
      const Vec d = load(dy + t * channels + c);
      const Vec normed = (load(x + t * channels + c) - mean[t]) * scale[t];
      to_weight += d * normed;
      to_bias += d;
      first[t] += d * w;
      second[t] += d * w * normed;
    }
    store(dweight + c, to_weight);
    store(dbias + c, to_bias);
  }
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) {
    plain[t] = first[t];
    product[t] = second[t];
  }
}

// dx = base + the gradient of the norm (base may be null); `normed`, if given, gets the norm itself once more.
template <class X>
void train_norm_gradients(const X* x, const X* dy, const X* base, const float* weight, const float* bias,
                          const Moments& kept, X* dx, X* normed, float* dweight, float* dbias,
                          int64_t tokens, int64_t channels) {
  const float share = 1.0f / static_cast<float>(channels);
  float plain[kLanes], product[kLanes];
  for (int64_t begin = 0; begin < tokens; begin += kNormTokens) {
    const int64_t count = begin + kNormTokens < tokens ? kNormTokens : tokens - begin;
    const float *mean = kept.mean + begin, *scale = kept.scale + begin;
    Vec first[kNormTokens] = {}, second[kNormTokens] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      norm_sums<4>(x + i * channels, dy + i * channels, weight, mean + i, scale + i, channels, dweight, dbias,
                   first + i, second + i);
    }
    for (; i < count; ++i) {
      norm_sums<1>(x + i * channels, dy + i * channels, weight, mean + i, scale + i, channels, dweight, dbias,
                   first + i, second + i);
    }
    store(plain, sums_of(first) * share);
    store(product, sums_of(second) * share);
    for (i = 0; i < count; ++i, x += channels, dy += channels, dx += channels) {
      for (int64_t c = 0; c < channels; c += kLanes) {
        const Vec w = load(weight + c);
        const Vec z = (load(x + c) - mean[i]) * scale[i];
        Vec value = (load(dy + c) * w - plain[i] - z * product[i]) * scale[i];
        if (base != nullptr) value += load(base + c);
        if (normed != nullptr) store(normed + c, z * w + load(bias + c));
        store(dx + c, value);
      }
      if (base != nullptr) base += channels;
      if (normed != nullptr) normed += channels;
    }
  }
}

// ---- GELU --------------------------------------------------------------------------------------------------------

// exp(-x^2 / 2) / sqrt(2 pi).
template <int T>
VMAMBA_INLINE void normal_density(const Vec* x, Vec* density) {
  lockstep<T>([&](int i) { density[i] = x[i] * x[i] * (-0.5f * kLog2e); });
  exp2_bounded<T>(density);
  lockstep<T>([&](int i) { density[i] *= 0.3989422804014327f; });
}

// The derivative of GELU times dy in dx, which may be dy; the sums of dx over tokens added to `sums`; GELU itself once
// more in `out` if given.
template <int T, class X>
VMAMBA_INLINE void gelu_gradients_of(const X* x, const X* dy, X* dx, X* out, float* sums, int64_t channels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vec value[T], erf[T], density[T];
    lockstep<T>([&](int t) { value[t] = load(x + t * channels + c); });
    normal_erf<T>(value, erf);
    normal_density<T>(value, density);
    Vec sum = load(sums + c);
    lockstep<T>([&](int t) {
      const Vec d = load(dy + t * channels + c) * (value[t] * density[t] + (0.5f * erf[t] + 0.5f));
      sum += d;
      store(dx + t * channels + c, d);
      if (out != nullptr) store(out + t * channels + c, gelu_from(value[t], erf[t]));
    });
    store(sums + c, sum);
  }
}

template <class X>
void gelu_gradients(const X* x, const X* dy, X* dx, X* out, float* sums, int64_t tokens, int64_t channels) {
  int64_t i = 0;
  const auto at = [&](auto* map) { return map + i * channels; };
  for (; i + 2 <= tokens; i += 2) {
    gelu_gradients_of<2>(at(x), at(dy), at(dx), out == nullptr ? out : at(out), sums, channels);
  }
  if (i < tokens) gelu_gradients_of<1>(at(x), at(dy), at(dx), out == nullptr ? out : at(out), sums, channels);
}

// Add the sums of x over tokens to `sums`.
template <class X>
void sum_tokens(const X* x, float* sums, int64_t tokens, int64_t channels) {
  constexpr int64_t together = 8;
  for (int64_t i = 0; i < tokens; i += together) {
    const int64_t live = tokens - i < together ? tokens - i : together;
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec sum = load(sums + c);
      for (int64_t t = 0; t < live; ++t) sum += load(x + (i + t) * channels + c);
      store(sums + c, sum);
    }
  }
}

// ---- depthwise 3x3 and SiLU --------------------------------------------------------------------------------------

// A row of a map, or zeros where there is none.
template <class X>
struct Rows {
  const X* map;
  const X* zeros;
  int64_t height, pitch;
  const X* at(int64_t i) const { return i >= 0 && i < height ? map + i * pitch : zeros; }
};

// Slide a 3x3 window of one vector of channels along row i; visit(j, window) sees its nine values, row by row.
template <class X, class Visit>
VMAMBA_INLINE void slide(const Rows<X>& rows, int64_t i, int64_t width, int64_t channels, int64_t c, Visit visit) {
  const X* row[3] = {rows.at(i - 1) + c, rows.at(i) + c, rows.at(i + 1) + c};
  Vec window[9] = {};
  VMAMBA_UNROLL
  for (int q = 0; q < 3; ++q) window[3 * q + 2] = load(row[q]);
  for (int64_t j = 0; j < width; ++j) {
    VMAMBA_UNROLL
    for (int q = 0; q < 3; ++q) {
      window[3 * q] = window[3 * q + 1];
      window[3 * q + 1] = window[3 * q + 2];
      window[3 * q + 2] = j + 1 < width ? load(row[q] + (j + 1) * channels) : Vec{};
    }
    visit(j, window);
  }
}

VMAMBA_INLINE Vec convolve(const Vec* window, const Vec* tap, Vec shift) {
  Vec sum[3] = {shift, Vec{}, Vec{}};
  VMAMBA_UNROLL
  for (int q = 0; q < 9; ++q) sum[q / 3] += window[q] * tap[q];
  return sum[0] + sum[1] + sum[2];
}

// One image (height, width, channels); `zeros` is a row of zeros.
template <class X>
void train_depthwise(const X* x, X* out, const float* weight, const float* bias, const X* zeros, int64_t height,
                     int64_t width, int64_t channels) {
  const Rows<X> rows{x, zeros, height, width * channels};
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec tap[9];
      VMAMBA_UNROLL
      for (int q = 0; q < 9; ++q) tap[q] = load(weight + q * channels + c);
      const Vec shift = bias != nullptr ? load(bias + c) : Vec{};
      X* to = out + i * width * channels + c;
      slide(rows, i, width, channels, c,
            [&](int64_t j, const Vec* window) { store(to + j * channels, silu(convolve(window, tap, shift))); });
    }
  }
}

// The derivative of SiLU at x.
VMAMBA_INLINE Vec silu_slope(Vec x) {
  const Vec share = 1.0f / (1.0f + exp2_bounded(at_most(126.0f, x * -kLog2e)));
  return share + x * share * (1.0f - share);
}

// Gradients of one image. `inner` (height, width, channels) holds the gradient before SiLU, `zeros` and `inner_zeros` a
// row of zeros each. dweight (9, channels) and dbias (or null) are added to.
template <class X>
void train_depthwise_gradients(const X* x, const X* dy, X* dx, const float* weight, const float* bias, float* dweight,
                               float* dbias, const X* zeros, float* inner, const float* inner_zeros, int64_t height,
                               int64_t width, int64_t channels) {
  const int64_t pitch = width * channels;
  const Rows<X> rows{x, zeros, height, pitch};
  const Rows<float> inner_rows{inner, inner_zeros, height, pitch};
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vec tap[9], to_tap[9];
    VMAMBA_UNROLL
    for (int q = 0; q < 9; ++q) {
      tap[q] = load(weight + q * channels + c);
      to_tap[q] = load(dweight + q * channels + c);
    }
    const Vec shift = bias != nullptr ? load(bias + c) : Vec{};
    Vec to_bias{};
    for (int64_t i = 0; i < height; ++i) {
      slide(rows, i, width, channels, c, [&](int64_t j, const Vec* window) {
        const int64_t place = i * pitch + j * channels + c;
        const Vec d = load(dy + place) * silu_slope(convolve(window, tap, shift));
        to_bias += d;
        VMAMBA_UNROLL
        for (int q = 0; q < 9; ++q) to_tap[q] += d * window[q];
        store(inner + place, d);
      });
    }
    VMAMBA_UNROLL
    for (int q = 0; q < 9; ++q) store(dweight + q * channels + c, to_tap[q]);
    if (dbias != nullptr) store(dbias + c, load(dbias + c) + to_bias);
    Vec turned[9];
    VMAMBA_UNROLL
    for (int q = 0; q < 9; ++q) turned[q] = tap[8 - q];
    for (int64_t i = 0; i < height; ++i) {
      X* to = dx + i * pitch + c;
      slide(inner_rows, i, width, channels, c,
            [&](int64_t j, const Vec* window) { store(to + j * channels, convolve(window, turned, Vec{})); });
    }
  }
}

}  // namespace
