// Forward scan: a map is walked row by row, and along a row the row direction and the column direction of the
// same sense advance together. The row state lives in registers, column states in an array one row long, so a
// token's u and y are touched once per pair of directions and no direction ever needs its own copy of the map.
//
// States are kept divided by ln 2 (step sizes are base-2 logarithms); the factor returns when y is written.
#pragma once

#include "math.hpp"

namespace {

using vmamba::Carry;
using vmamba::kBlock;
using vmamba::ScanWeights;
using vmamba::Storage;
using vmamba::Strip;
using vmamba::Sweep;
using vmamba::Transition;

// Tokens handled together, sharing loaded weights, when transitions are folded and when y is written, which needs more
// registers; and how many of them go through a polynomial in lockstep: enough to hide the latency of an addition
// chain, few enough to stay in registers.
constexpr int kFoldTokens = 8;
constexpr int kSweepTokens = kLanes == 16 ? 8 : 4;
constexpr int kLockstep = kLanes == 16 ? 4 : 2;

// Where a direction's numbers are. N is the state size when known at compile time, 0 otherwise.
template <int N>
struct Layout {
  int64_t state, group, token;  // states; floats per direction and per token of `proj`
  explicit Layout(const ScanWeights& w)
      : state(N != 0 ? N : w.state), group(w.rank + 2 * state), token(4 * group) {}
};

// d[t] = log2(1 + 2^(W dt_r + b)) of T tokens lying `stride` floats apart, for the vector of channels at c.
template <int T, class Grade>
VMAMBA_INLINE void step_sizes(const ScanWeights& w, int k, int64_t c, const float* proj, int64_t stride, Vec* d) {
  const float* weight = w.weight + (k * (w.padded / kBlock) + c / kBlock) * w.rank * kBlock + c % kBlock;
  const Vec bias = load(w.bias + k * w.padded + c);
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) d[t] = bias;
  for (int64_t r = 0; r < w.rank; ++r) {
    const Vec row = load(weight + r * kBlock);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) d[t] += row * proj[t * stride + r];
  }
  constexpr int together = T < kLockstep ? T : kLockstep;
  VMAMBA_UNROLL
  for (int t = 0; t < T; t += together) softplus2<together, Grade>(d + t);
}

// a[t] = 2^(d[t] rate).
template <int T, class Grade>
VMAMBA_INLINE void decays(const Vec* d, Vec rate, Vec* a) {
  constexpr int together = T < kLockstep ? T : kLockstep;
  VMAMBA_UNROLL
  for (int t = 0; t < T; t += together) {
    lockstep<together>([&](int i) { a[t + i] = d[t + i] * rate; });
    exp2_bounded<together, Grade>(a + t);
  }
}

// d[t] as above and drive[t] = d[t] u[t].
template <int T, bool Tail, class X>
VMAMBA_INLINE void coefficients(const ScanWeights& w, int k, int64_t c, const X* u, int64_t u_stride,
                                const float* proj, int64_t stride, Vec* d, Vec* drive) {
  step_sizes<T, grade_of<X>>(w, k, c, proj, stride, d);
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) drive[t] = d[t] * load_channels<Tail>(u + t * u_stride + c, w.channels - c);
}

// Where state n of the vector of channels at c lies, for column j: states are [padded / 16][state][width][16], so
// that neighbouring columns are neighbours in memory whatever the number of channels. Rows have width 1.
VMAMBA_INLINE int64_t state_place(int64_t state, int64_t width, int64_t c, int64_t n, int64_t j) {
  return ((c / kBlock * state + n) * width + j) * kBlock + c % kBlock;
}

// Ask for what the next T tokens will need, one vector of channels: the walk is too irregular for the machine to
// guess. Prefetching behind the end of an array is harmless.
template <int T>
VMAMBA_INLINE void prefetch_tokens(const void* first, int64_t stride_bytes) {
  const char* place = static_cast<const char*>(first) + T * stride_bytes;
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) __builtin_prefetch(place + t * stride_bytes);
}

// The same for their projections, one cache line of each token per vector of channels until all are asked for.
template <int T>
VMAMBA_INLINE void prefetch_proj(const float* proj, int64_t stride, int64_t length, int64_t c) {
  const int64_t line = c / kLanes * 16;
  if (line < length) prefetch_tokens<T>(proj + line, stride * static_cast<int64_t>(sizeof(float)));
}

// Advance T tokens of one direction and add C . h to sum[t]. All tokens of a row share one state (`width` 1,
// `column` 0); in column direction, token t is in column + step t.
template <int T, int N, bool Row, class Grade>
VMAMBA_INLINE void advance(const ScanWeights& w, const Layout<N>& at, int k, int64_t c, const float* proj,
                           int64_t stride, const Vec* d, const Vec* drive, float* states, int64_t width,
                           int64_t column, int64_t step, Vec* sum) {
  const float* b = proj + w.rank;
  const float* read = b + at.state;
  for (int64_t n = 0; n < at.state; ++n) {
    const Vec rate = load(w.rate + (k * at.state + n) * w.padded + c);
    float* place = states + state_place(at.state, width, c, n, column);
    Vec a[T];
    decays<T, Grade>(d, rate, a);
    Vec h = load(place);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) {
      if (!Row) h = load(place + t * step * kBlock);
      h = a[t] * h + drive[t] * b[t * stride + n];
      if (!Row) store(place + t * step * kBlock, h);
      sum[t] += h * read[t * stride + n];
    }
    if (Row) store(place, h);
  }
}

// T tokens of both directions of one sense, one vector of channels. Sign +1 walks to the right and down, -1 to the
// left and up. Writes y, the skip included, or adds to it. Pointers are at the first token walked.
template <int T, int Sign, bool Add, bool Tail, int N, class X>
VMAMBA_INLINE void apply_block(const ScanWeights& w, const Layout<N>& at, const X* u, const float* proj, float* y,
                               float* row_state, float* column_states, int64_t width, int64_t j, int64_t c) {
  constexpr int row = Sign > 0 ? 0 : 2;
  constexpr int column = row + 1;
  const int64_t u_stride = Sign * w.channels;
  const int64_t stride = Sign * at.token;
  Vec d[T], drive[T], sum[T] = {};
  const float* row_proj = proj + row * at.group;
  coefficients<T, Tail>(w, row, c, u, u_stride, row_proj, stride, d, drive);
  advance<T, N, true, grade_of<X>>(w, at, row, c, row_proj, stride, d, drive, row_state, 1, 0, 0, sum);
  const float* column_proj = proj + column * at.group;
  coefficients<T, Tail>(w, column, c, u, u_stride, column_proj, stride, d, drive);
  advance<T, N, false, grade_of<X>>(w, at, column, c, column_proj, stride, d, drive, column_states, width, j, Sign, sum);
  prefetch_tokens<T>(u + c, u_stride * static_cast<int64_t>(sizeof(X)));
  prefetch_tokens<T>(y + c, u_stride * static_cast<int64_t>(sizeof(float)));
  prefetch_tokens<T>(column_states + state_place(at.state, width, c, 0, j), Sign * kBlock * int64_t{sizeof(float)});
  prefetch_proj<T>(proj, stride, at.token, c);
  const Vec skip = load(w.skip + c);
  const int64_t live = w.channels - c;
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) {
    float* out = y + t * u_stride + c;
    Vec rest;
    if constexpr (Add) {
      rest = load_channels<Tail>(out, live);
    } else {
      rest = skip * load_channels<Tail>(u + t * u_stride + c, live);
    }
    store_channels<Tail>(out, sum[t] * kLn2 + rest, live);
  }
}

// All channels in [first, last) that exist, whole vectors first, then the one that is cut short.
template <class WholeVector, class CutVector>
VMAMBA_INLINE void each_vector(int64_t channels, int64_t first, int64_t last, WholeVector whole, CutVector cut) {
  const int64_t end = last < channels ? last : channels;
  int64_t c = first;
  for (; c + kLanes <= end; c += kLanes) whole(c);
  if (c < end) cut(c);
}

template <int T, int Sign, bool Add, int N, class X>
void apply_tokens(const ScanWeights& w, const Layout<N>& at, const X* u, const float* proj, float* y,
                  float* row_state, float* column_states, int64_t width, int64_t j, int64_t first, int64_t last) {
  each_vector(
      w.channels, first, last,
      [&](int64_t c) { apply_block<T, Sign, Add, false, N>(w, at, u, proj, y, row_state, column_states, width, j, c); },
      [&](int64_t c) { apply_block<T, Sign, Add, true, N>(w, at, u, proj, y, row_state, column_states, width, j, c); });
}

template <int Sign, bool Add, int N, class X>
void sweep_rows(const ScanWeights& w, const Strip& strip, float* row_state, float* column_states, const Sweep& way,
                float* y, int64_t first, int64_t last) {
  const Layout<N> at(w);
  for (int64_t i = 0; i < way.last_row - way.first_row; ++i) {
    const int64_t row = Sign > 0 ? way.first_row + i : way.last_row - 1 - i;
    for (int64_t j = 0; j < strip.width;) {
      const int64_t column = Sign > 0 ? j : strip.width - 1 - j;
      const int64_t token = row * strip.width + column;
      const X* u = static_cast<const X*>(strip.u) + token * w.channels;
      const float* proj = strip.proj + token * at.token;
      float* out = y + token * w.channels;
      if (j + kSweepTokens <= strip.width) {
        apply_tokens<kSweepTokens, Sign, Add, N>(w, at, u, proj, out, row_state, column_states, strip.width, column, first, last);
        j += kSweepTokens;
      } else {
        apply_tokens<1, Sign, Add, N>(w, at, u, proj, out, row_state, column_states, strip.width, column, first, last);
        j += 1;
      }
    }
  }
}

template <int N, class X>
void sweep_strip(const ScanWeights& w, const Strip& strip, const Carry& carry, const Sweep& way, float* y,
                 int64_t first, int64_t last) {
  if (way.downward) {
    const auto run = way.add ? sweep_rows<1, true, N, X> : sweep_rows<1, false, N, X>;
    run(w, strip, carry.row_forward.state, carry.column_forward.state, way, y, first, last);
  } else {
    const auto run = way.add ? sweep_rows<-1, true, N, X> : sweep_rows<-1, false, N, X>;
    run(w, strip, carry.row_backward.state, carry.column_backward.state, way, y, first, last);
  }
}

// Fold T tokens into a transition. Tokens are met in forward order; a forward direction appends them
// (S = a S + b), a backward direction puts them in front (S = S + P b); P = P a either way.
template <int T, int N, bool Row, bool Backward, bool Tail, class X>
VMAMBA_INLINE void fold(const ScanWeights& w, const Layout<N>& at, const X* u, const float* proj,
                        const Transition& into, int64_t width, int64_t j, int64_t c) {
  constexpr int k = (Row ? 0 : 1) + (Backward ? 2 : 0);
  const float* own = proj + k * at.group;
  Vec d[T], drive[T];
  coefficients<T, Tail>(w, k, c, u, w.channels, own, at.token, d, drive);
  const float* b = own + w.rank;
  for (int64_t n = 0; n < at.state; ++n) {
    const Vec rate = load(w.rate + (k * at.state + n) * w.padded + c);
    const int64_t place = state_place(at.state, Row ? 1 : width, c, n, Row ? 0 : j);
    Vec a[T];
    decays<T, grade_of<X>>(d, rate, a);
    Vec decay = load(into.decay + place);
    Vec state = load(into.state + place);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) {
      if (!Row) {
        decay = load(into.decay + place + t * kBlock);
        state = load(into.state + place + t * kBlock);
      }
      const Vec input = drive[t] * b[t * at.token + n];
      state = Backward ? decay * input + state : a[t] * state + input;
      decay *= a[t];
      if (!Row) {
        store(into.decay + place + t * kBlock, decay);
        store(into.state + place + t * kBlock, state);
      }
    }
    if (Row) {
      store(into.decay + place, decay);
      store(into.state + place, state);
    }
  }
}

// Fold T tokens into both transitions of the rows (those that are wanted) or of the columns.
template <int T, bool Row, bool Tail, int N, class X>
VMAMBA_INLINE void fold_pair(const ScanWeights& w, const Layout<N>& at, const X* u, const float* proj,
                             const Transition* forward, const Transition* backward, int64_t width, int64_t j,
                             int64_t c) {
  if (forward != nullptr) fold<T, N, Row, false, Tail>(w, at, u, proj, *forward, width, j, c);
  if (backward != nullptr) fold<T, N, Row, true, Tail>(w, at, u, proj, *backward, width, j, c);
  prefetch_tokens<T>(u + c, w.channels * static_cast<int64_t>(sizeof(X)));
  prefetch_proj<T>(proj, at.token, at.token, c);
}

template <int T, bool Row, int N, class X>
void fold_tokens(const ScanWeights& w, const Layout<N>& at, const X* u, const float* proj, const Transition* forward,
                 const Transition* backward, int64_t width, int64_t j, int64_t first, int64_t last) {
  each_vector(
      w.channels, first, last,
      [&](int64_t c) { fold_pair<T, Row, false, N>(w, at, u, proj, forward, backward, width, j, c); },
      [&](int64_t c) { fold_pair<T, Row, true, N>(w, at, u, proj, forward, backward, width, j, c); });
}

// Fold columns [begin, end) of all rows of a strip.
template <bool Row, int N, class X>
void fold_columns(const ScanWeights& w, const Strip& strip, const Transition* forward, const Transition* backward,
                  int64_t begin, int64_t end, int64_t first, int64_t last) {
  const Layout<N> at(w);
  for (int64_t i = 0; i < strip.rows; ++i) {
    for (int64_t j = begin; j < end;) {
      const int64_t token = i * strip.width + j;
      const X* u = static_cast<const X*>(strip.u) + token * w.channels;
      const float* proj = strip.proj + token * at.token;
      if (j + kFoldTokens <= end) {
        fold_tokens<kFoldTokens, Row, N>(w, at, u, proj, forward, backward, strip.width, j, first, last);
        j += kFoldTokens;
      } else {
        fold_tokens<1, Row, N>(w, at, u, proj, forward, backward, strip.width, j, first, last);
        j += 1;
      }
    }
  }
}

// The transition that changes nothing, decay 1 and state 0, for columns [begin, end) and channels [first, last).
VMAMBA_INLINE void reset(const Transition& t, int64_t state, int64_t width, int64_t begin, int64_t end,
                         int64_t first, int64_t last) {
  for (int64_t c = first; c < last; c += kBlock) {
    for (int64_t n = 0; n < state; ++n) {
      const int64_t place = state_place(state, width, c, n, begin);
      for (int64_t i = place; i < place + (end - begin) * kBlock; i += kLanes) {
        store(t.decay + i, splat(1.0f));
        store(t.state + i, Vec{});
      }
    }
  }
}

// Floats of column transitions that may be live at once, so that they stay in the second-level cache.
constexpr int64_t kTileFloats = 48 * 1024;

template <int N, class X>
void columns_of_strip(const ScanWeights& w, const Strip& strip, const Carry& carry, bool fresh, int64_t begin,
                      int64_t end, int64_t first, int64_t last) {
  const Layout<N> at(w);
  if (fresh) reset(carry.column_forward, at.state, strip.width, begin, end, first, last);
  reset(carry.column_backward, at.state, strip.width, begin, end, first, last);
  // Columns do not depend on each other, so they can be taken a few at a time.
  const int64_t fitting = kTileFloats / (4 * at.state * (last - first)) / kFoldTokens * kFoldTokens;
  const int64_t columns = fitting > kFoldTokens ? fitting : kFoldTokens;
  for (int64_t start = begin; start < end; start += columns) {
    const int64_t stop = start + columns < end ? start + columns : end;
    fold_columns<false, N, X>(w, strip, &carry.column_forward, &carry.column_backward, start, stop, first, last);
  }
}

template <int N, class X>
void summarize_strip(const ScanWeights& w, const Strip& strip, const Carry& carry, bool fresh, bool row_forward,
                     bool row_backward, int64_t first, int64_t last) {
  const Layout<N> at(w);
  if (fresh) reset(carry.row_forward, at.state, 1, 0, 1, first, last);
  reset(carry.row_backward, at.state, 1, 0, 1, first, last);
  if (row_forward || row_backward) {
    fold_columns<true, N, X>(w, strip, row_forward ? &carry.row_forward : nullptr,
                             row_backward ? &carry.row_backward : nullptr, 0, strip.width, first, last);
  }
  columns_of_strip<N, X>(w, strip, carry, fresh, 0, strip.width, first, last);
}

// Entering states of every slot of every column from their transitions, for one block of channels and one n:
// compose each column, run along the columns, then down the slots of each. Slots lie `pitch` floats apart.
// `entry` (2 * width * 16 floats) holds what each column does as a whole, then what enters it.
void combine_block(const float* decay, float* state, int64_t slots, int64_t pitch, int64_t width, bool backward,
                   float* entry) {
  const int64_t size = width * kBlock;
  float* whole_decay = entry;
  float* whole_state = entry + size;
  for (int64_t q = 0; q < slots; ++q) {
    const int64_t slot = (backward ? slots - 1 - q : q) * pitch;
    for (int64_t c = 0; c < size; c += kLanes) {
      const Vec p = load(decay + slot + c);
      const Vec s = load(state + slot + c);
      store(whole_decay + c, q == 0 ? p : p * load(whole_decay + c));
      store(whole_state + c, q == 0 ? s : p * load(whole_state + c) + s);
    }
  }
  for (int64_t c = 0; c < kBlock; c += kLanes) {
    Vec h{};
    for (int64_t q = 0; q < width; ++q) {
      const int64_t place = (backward ? width - 1 - q : q) * kBlock + c;
      const Vec leaving = load(whole_decay + place) * h + load(whole_state + place);
      store(whole_state + place, h);
      h = leaving;
    }
  }
  for (int64_t q = 0; q < slots; ++q) {
    const int64_t slot = (backward ? slots - 1 - q : q) * pitch;
    for (int64_t c = 0; c < size; c += kLanes) {
      const Vec entering = load(whole_state + c);
      store(whole_state + c, load(decay + slot + c) * entering + load(state + slot + c));
      store(state + slot + c, entering);
    }
  }
}

}  // namespace
