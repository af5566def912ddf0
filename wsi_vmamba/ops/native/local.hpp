// Operators that look at one token (layer norm, SiLU) or at its eight neighbours (depthwise 3x3), channels last.
#pragma once

#include "math.hpp"

namespace {

// Normalise each token over its channels, scale and shift, and multiply by `gate` where there is one.
template <class X, class Y>
void layer_norm(const X* x, Y* out, const X* gate, const float* weight, const float* bias, float eps,
                int64_t tokens, int64_t channels) {
  const int64_t whole = channels / kLanes * kLanes;
  const int64_t rest = channels - whole;
  const float share = 1.0f / static_cast<float>(channels);
  for (int64_t i = 0; i < tokens; ++i, x += channels, out += channels) {
    Vec sum = rest > 0 ? load_some(x + whole, rest) : Vec{};
    for (int64_t c = 0; c < whole; c += kLanes) sum += load(x + c);
    const float mean = sum_lanes(sum) * share;
    Vec squares{};
    if (rest > 0) {
      const Vec off = keep_some(load_some(x + whole, rest) - mean, rest);
      squares = off * off;
    }
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Vec off = load(x + c) - mean;
      squares += off * off;
    }
    const float variance = sum_lanes(squares) * share;
    const float scale = inverse_deviation(variance + eps);
    for (int64_t c = 0; c < whole; c += kLanes) {
      Vec y = (load(x + c) - mean) * scale * load(weight + c) + load(bias + c);
      if (gate != nullptr) y *= load(gate + c);
      store(out + c, y);
    }
    if (rest > 0) {
      Vec y = (load_some(x + whole, rest) - mean) * scale * load_some(weight + whole, rest);
      y += load_some(bias + whole, rest);
      if (gate != nullptr) y *= load_some(gate + whole, rest);
      store_some(out + whole, y, rest);
    }
    if (gate != nullptr) gate += channels;
  }
}

template <class X>
void silu_in_place(X* x, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, silu(load(x + i)));
  if (i < count) store_some(x + i, silu(load_some(x + i, count - i)), count - i);
}

// A vector of channels of three rows: a column of the window.
struct WindowColumn {
  Vec row[3];

  template <bool Tail, class X>
  VMAMBA_MEMBER void read(const X* above, int64_t pitch, int64_t live) {
    VMAMBA_UNROLL
    for (int i = 0; i < 3; ++i) row[i] = load_channels<Tail>(above + i * pitch, live);
  }
};

// One vector of channels along `count` columns: a 3x3 window slides to the right, T columns per step.
// `rows` points at column `begin` of the row above; columns outside [0, width) are zeros.
template <bool Tail, class X>
VMAMBA_INLINE void depthwise_run(const X* rows, X* out, const float* weight, const float* bias, int64_t begin,
                                 int64_t count, int64_t width, int64_t channels, int64_t c) {
  const int64_t live = channels - c, pitch = width * channels;
  Vec tap[9];
  VMAMBA_UNROLL
  for (int q = 0; q < 9; ++q) tap[q] = load_channels<Tail>(weight + q * channels + c, live);
  const Vec shift = bias != nullptr ? load_channels<Tail>(bias + c, live) : Vec{};
  const X* above = rows + c;
  constexpr int T = kLanes == 16 ? 3 : 1;
  WindowColumn window[T + 2] = {};
  if (begin > 0) window[0].read<Tail>(above - channels, pitch, live);
  window[1].read<Tail>(above, pitch, live);
  const auto sum = [&](int t) {
    Vec parts[3];
    VMAMBA_UNROLL
    for (int i = 0; i < 3; ++i) {
      parts[i] = window[t].row[i] * tap[3 * i] + (i == 0 ? shift : Vec{});
      parts[i] = window[t + 1].row[i] * tap[3 * i + 1] + parts[i];
      parts[i] = window[t + 2].row[i] * tap[3 * i + 2] + parts[i];
    }
    return parts[0] + parts[1] + parts[2];
  };
  int64_t j = 0;
  for (; j + T <= count && begin + j + T < width; j += T) {
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) window[2 + t].read<Tail>(above + (j + 1 + t) * channels, pitch, live);
    Vec value[T];
    lockstep<T>([&](int t) { value[t] = sum(t); });
    silu<T, grade_of<X>>(value);
    lockstep<T>([&](int t) { store_channels<Tail>(out + (j + t) * channels + c, value[t], live); });
    window[0] = window[T];
    window[1] = window[T + 1];
  }
  for (; j < count; ++j) {
    window[2] = {};
    if (begin + j + 1 < width) window[2].read<Tail>(above + (j + 1) * channels, pitch, live);
    Vec value = sum(0);
    silu<1, grade_of<X>>(&value);
    store_channels<Tail>(out + j * channels + c, value, live);
    window[0] = window[1];
    window[1] = window[2];
  }
}

// Depthwise 3x3 convolution and SiLU. `rows` has one row more above and below than `out`.
template <class X>
void depthwise_silu(const X* rows, X* out, const float* weight, const float* bias, int64_t out_rows,
                    int64_t width, int64_t channels) {
  // Columns per tile, so that three rows of a tile stay in the first-level cache.
  constexpr int64_t kColumns = 32;
  for (int64_t begin = 0; begin < width; begin += kColumns) {
    const int64_t count = begin + kColumns < width ? kColumns : width - begin;
    for (int64_t i = 0; i < out_rows; ++i) {
      const X* above = rows + (i * width + begin) * channels;
      X* to = out + (i * width + begin) * channels;
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        depthwise_run<false>(above, to, weight, bias, begin, count, width, channels, c);
      }
      if (c < channels) depthwise_run<true>(above, to, weight, bias, begin, count, width, channels, c);
    }
  }
}

}  // namespace
