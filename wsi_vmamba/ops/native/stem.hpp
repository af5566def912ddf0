// The first half of the stem in training: convolution 3x3 with stride 2 of an image of three colours, layer norm and GELU,
// one row of tokens at a time, so that nothing between image and result goes through memory. The gradient computes a row
// again.
#pragma once

#include "train.hpp"

namespace {

using vmamba::StemGradients;
using vmamba::StemWeights;

constexpr int64_t kColours = 3, kTaps = 9 * kColours;

VMAMBA_INLINE int64_t halved(int64_t size) { return (size + 1) / 2; }

// Buffers of one image: the image with a border of zeros, and rows of tokens.
struct StemScratch {
  float *padded, *inner, *normed, *grad, *inner_grad, *mean, *scale;
  int64_t pitch, total;

  StemScratch(float* base, int64_t height, int64_t width, int64_t channels) : pitch(width + 3), total(0) {
    const int64_t tokens = halved(width), row = tokens * channels;
    auto take = [&](int64_t count) {
      float* place = base + total;
      total += (count + kLanes - 1) / kLanes * kLanes;
      return place;
    };
    padded = take(kColours * (height + 3) * pitch);
    inner = take(row);
    normed = take(row);
    grad = take(row);
    inner_grad = take(row);
    mean = take(tokens);
    scale = take(tokens);
  }

  void pad(const float* image, int64_t height, int64_t width) const {
    memset(padded, 0, sizeof(float) * static_cast<size_t>(kColours * (height + 3) * pitch));
    for (int64_t colour = 0; colour < kColours; ++colour) {
      for (int64_t i = 0; i < height; ++i) {
        memcpy(padded + (colour * (height + 3) + i + 1) * pitch + 1, image + (colour * height + i) * width,
               sizeof(float) * static_cast<size_t>(width));
      }
    }
  }

  // The nine rows of pixels that row i of tokens sees.
  void find(int64_t i, int64_t height, const float** rows) const {
    for (int64_t q = 0; q < 3 * kColours; ++q) rows[q] = padded + (q / 3 * (height + 3) + 2 * i + q % 3) * pitch;
  }
};

// A row of tokens before the norm.
VMAMBA_INLINE void stem_row(const StemWeights& w, const float* const* rows, float* inner, int64_t tokens) {
  for (int64_t c = 0; c < w.channels; c += kLanes) {
    Vec tap[kTaps];
    VMAMBA_UNROLL
    for (int q = 0; q < kTaps; ++q) tap[q] = load(w.taps + q * w.channels + c);
    const Vec shift = load(w.bias + c);
    for (int64_t j = 0; j < tokens; ++j) {
      Vec sum[3] = {shift, Vec{}, Vec{}};
#pragma GCC unroll 27
      for (int q = 0; q < kTaps; ++q) sum[q / 9] += tap[q] * rows[q / 3][2 * j + q % 3];
      store(inner + j * w.channels + c, sum[0] + sum[1] + sum[2]);
    }
  }
}

template <class X>
void stem(const float* image, const StemWeights& w, X* out, float* memory, int64_t height, int64_t width) {
  const StemScratch scratch(memory, height, width, w.channels);
  scratch.pad(image, height, width);
  const int64_t tokens = halved(width);
  for (int64_t i = 0; i < halved(height); ++i) {
    const float* rows[3 * kColours];
    scratch.find(i, height, rows);
    stem_row(w, rows, scratch.inner, tokens);
    train_norm(scratch.inner, scratch.normed, w.norm_weight, w.norm_bias, w.eps, {scratch.mean, scratch.scale}, tokens,
               w.channels);
    for (int64_t c = 0; c < tokens * w.channels; c += kLanes) {
      const Vec value = load(scratch.normed + c);
      Vec erf;
      normal_erf<1>(&value, &erf);
      store(out + i * tokens * w.channels + c, gelu_from(value, erf));
    }
  }
}

template <class X>
void stem_gradients(const float* image, const StemWeights& w, const X* dy, const StemGradients& grad, float* memory,
                    int64_t height, int64_t width) {
  const StemScratch scratch(memory, height, width, w.channels);
  scratch.pad(image, height, width);
  const Moments moments{scratch.mean, scratch.scale};
  const int64_t tokens = halved(width), row = tokens * w.channels;
  for (int64_t i = 0; i < halved(height); ++i) {
    const float* rows[3 * kColours];
    scratch.find(i, height, rows);
    stem_row(w, rows, scratch.inner, tokens);
    train_norm(scratch.inner, scratch.normed, w.norm_weight, w.norm_bias, w.eps, moments, tokens, w.channels);
    for (int64_t c = 0; c < row; c += kLanes) {
      const Vec value = load(scratch.normed + c);
      Vec erf, density;
      normal_erf<1>(&value, &erf);
      normal_density<1>(&value, &density);
      store(scratch.grad + c, load(dy + i * row + c) * (value * density + (0.5f * erf + 0.5f)));
    }
    train_norm_gradients<float>(scratch.inner, scratch.grad, nullptr, w.norm_weight, w.norm_bias, moments,
                                scratch.inner_grad, nullptr, grad.norm_weight, grad.norm_bias, tokens, w.channels);
    sum_tokens(scratch.inner_grad, grad.bias, tokens, w.channels);
    for (int64_t c = 0; c < w.channels; c += kLanes) {
      Vec sum[kTaps];
      VMAMBA_UNROLL
      for (int q = 0; q < kTaps; ++q) sum[q] = load(grad.taps + q * w.channels + c);
      for (int64_t j = 0; j < tokens; ++j) {
        const Vec d = load(scratch.inner_grad + j * w.channels + c);
#pragma GCC unroll 27
        for (int q = 0; q < kTaps; ++q) sum[q] += d * rows[q / 3][2 * j + q % 3];
      }
      VMAMBA_UNROLL
      for (int q = 0; q < kTaps; ++q) store(grad.taps + q * w.channels + c, sum[q]);
    }
  }
}

int64_t stem_scratch_floats(int64_t height, int64_t width, int64_t channels) {
  return StemScratch(nullptr, height, width, channels).total;
}

}  // namespace
