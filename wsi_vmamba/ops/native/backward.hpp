// Gradients of the scan by recomputation. Each direction is walked in segments: a forward walk keeps the state
// that enters each segment, then segments are visited from the last to the first, their states recomputed and
// the adjoint g_t = C_t dy_t + a_{t+1} g_{t+1} run backwards. README.md has the formulas.
#pragma once

#include "scan.hpp"

namespace {

using vmamba::Border;
using vmamba::Gradients;

// Tokens whose states are held at once.
constexpr int64_t kSegment = 64;
// Tokens whose step sizes are computed together.
constexpr int kGroup = 4;

// Tokens of one segment in the order of the scan: token, token + step, ...
struct Segment {
  int64_t token, step, length;
};

// One direction's walk over a map, cut into segments inside rows (or columns).
struct Walk {
  int k;
  int64_t lines, length, width, pieces;

  Walk(int direction, int64_t rows, int64_t columns)
      : k(direction),
        lines(direction % 2 == 0 ? rows : columns),
        length(direction % 2 == 0 ? columns : rows),
        width(columns),
        pieces((length + kSegment - 1) / kSegment) {}

  int64_t count() const { return lines * pieces; }

  // In a strip: its rows are one sequence, and each of its columns is a part of the sequence that the columns are.
  int64_t chains() const { return k % 2 == 0 ? 1 : lines; }
  int64_t chain(int64_t index) const { return index / (count() / chains()); }
  bool begins_chain(int64_t index) const { return index % (count() / chains()) == 0; }
  bool ends_chain(int64_t index) const { return (index + 1) % (count() / chains()) == 0; }

  Segment segment(int64_t index) const {
    const bool reversed = k >= 2;
    const int64_t forward = reversed ? count() - 1 - index : index;
    const int64_t line = forward / pieces, begin = forward % pieces * kSegment;
    const int64_t size = begin + kSegment < length ? kSegment : length - begin;
    const int64_t step = k % 2 == 0 ? 1 : width;
    const int64_t token = k % 2 == 0 ? line * width + begin : begin * width + line;
    if (reversed) return {token + (size - 1) * step, -step, size};
    return {token, step, size};
  }
};

// Offsets into the scratch of one call, in floats; `span` is the number of padded channels in the range.
struct Scratch {
  float *entries, *state, *adjoint, *steps_grad, *step, *slope, *decay, *before, *b_grad, *c_grad;
  int64_t total;

  Scratch(float* base, const ScanWeights& w, int64_t rows, int64_t width, int64_t span) : total(0) {
    const int64_t by_rows = Walk(0, rows, width).count(), by_columns = Walk(1, rows, width).count();
    const int64_t segments = by_rows > by_columns ? by_rows : by_columns;
    auto take = [&](int64_t count) {
      float* place = base + total;
      total += count;
      return place;
    };
    entries = take(segments * w.state * span);
    state = take(w.state * span);
    adjoint = take(w.state * span);
    steps_grad = take(kSegment * span);
    step = take(kSegment * kLanes);
    slope = take(kSegment * kLanes);
    decay = take(kSegment * w.state * kLanes);
    before = take(kSegment * w.state * kLanes);
    b_grad = take(kSegment * w.state * kLanes);
    c_grad = take(kSegment * w.state * kLanes);
  }
};

// W dt_r + b in base 2 for T tokens.
template <int T>
VMAMBA_INLINE void logits(const ScanWeights& w, int k, int64_t c, const float* proj, int64_t stride, Vec* z) {
  const float* weight = w.weight + (k * (w.padded / kBlock) + c / kBlock) * w.rank * kBlock + c % kBlock;
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) z[t] = load(w.bias + k * w.padded + c);
  for (int64_t r = 0; r < w.rank; ++r) {
    const Vec row = load(weight + r * kBlock);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) z[t] += row * proj[t * stride + r];
  }
}

// The derivative of softplus at z (base 2): 1 / (1 + 2^-z), through 2^-|z| so that nothing overflows.
VMAMBA_INLINE Vec logistic2(Vec z) {
  const Vec e = exp2_bounded(negative_abs(z));
  return (z < splat(0.0f) ? e : splat(1.0f)) / (1.0f + e);
}

// Everything one image, one direction and one range of channels needs.
struct Pass {
  const ScanWeights& w;
  const float* u;
  const float* grad_y;
  const float* proj;
  const Gradients& grad;
  const Scratch& scratch;
  int k;
  int64_t first, last, span, group, stride;

  Vec channels_at(const float* map, int64_t token, int64_t c) const {
    const float* place = map + token * w.channels + c;
    const int64_t live = w.channels - c;
    return live >= kLanes ? load(place) : load_some(place, live);
  }

  const float* proj_at(int64_t token) const { return proj + token * stride + k * group; }

  // Walk a segment forwards from `state`; with Keep, store what the adjoint needs.
  template <int T, bool Keep>
  void forward_tokens(const Segment& s, int64_t at, int64_t c) const {
    const int64_t token = s.token + at * s.step;
    const float* p = proj_at(token);
    Vec z[T];
    logits<T>(w, k, c, p, s.step * stride, z);
    for (int t = 0; t < T; ++t) {
      const Vec step = softplus2(z[t]);
      const Vec drive = step * kLn2 * channels_at(u, token + t * s.step, c);
      if (Keep) {
        store(scratch.step + (at + t) * kLanes, step * kLn2);
        store(scratch.slope + (at + t) * kLanes, logistic2(z[t]));
      }
      for (int64_t n = 0; n < w.state; ++n) {
        float* place = scratch.state + n * span + c - first;
        const Vec a = exp2_bounded(step * load(w.rate + (k * w.state + n) * w.padded + c));
        const Vec h = load(place);
        if (Keep) {
          store(scratch.decay + ((at + t) * w.state + n) * kLanes, a);
          store(scratch.before + ((at + t) * w.state + n) * kLanes, h);
        }
        store(place, a * h + drive * p[t * s.step * stride + w.rank + n]);
      }
    }
  }

  template <bool Keep>
  void forward_segment(const Segment& s, int64_t c) const {
    int64_t at = 0;
    for (; at + kGroup <= s.length; at += kGroup) forward_tokens<kGroup, Keep>(s, at, c);
    for (; at < s.length; ++at) forward_tokens<1, Keep>(s, at, c);
  }

  // Run the adjoint through a segment whose coefficients forward_segment<true> has just stored.
  void adjoint_segment(const Segment& s, int64_t c) const {
    Vec bias_grad{}, skip_grad{};
    for (int64_t at = s.length - 1; at >= 0; --at) {
      const int64_t token = s.token + at * s.step;
      const float* b = proj_at(token) + w.rank;
      const Vec x = channels_at(u, token, c), dy = channels_at(grad_y, token, c);
      const Vec step = load(scratch.step + at * kLanes);
      Vec input_grad{}, step_grad{};
      for (int64_t n = 0; n < w.state; ++n) {
        const int64_t kept = (at * w.state + n) * kLanes;
        const int64_t weight = (k * w.state + n) * w.padded + c;
        float* adjoint = scratch.adjoint + n * span + c - first;
        const Vec decayed = load(scratch.decay + kept) * load(scratch.before + kept);
        const Vec g = dy * b[w.state + n] + load(adjoint);
        const Vec gain = g * b[n];
        store(scratch.c_grad + kept, load(scratch.c_grad + kept) + dy * (decayed + step * x * b[n]));
        store(scratch.b_grad + kept, load(scratch.b_grad + kept) + g * step * x);
        input_grad += gain;
        step_grad += g * load(w.rate + weight) * decayed + gain * x;
        store(grad.rate + weight, load(grad.rate + weight) + g * step * decayed);
        store(adjoint, load(scratch.decay + kept) * g);
      }
      const Vec logit_grad = step_grad * load(scratch.slope + at * kLanes);
      store(scratch.steps_grad + at * span + c - first, logit_grad);
      bias_grad += logit_grad;
      skip_grad += dy * x;
      add_input_grad(token, c, input_grad * step, dy);
    }
    float* bias = grad.bias + k * w.padded + c;
    store(bias, load(bias) + bias_grad);
    if (k == 0) store(grad.skip + c, load(grad.skip + c) + skip_grad);
  }

  // The first direction also brings the skip connection and overwrites; the others add.
  void add_input_grad(int64_t token, int64_t c, Vec value, Vec dy) const {
    float* place = grad.u + token * w.channels + c;
    const int64_t live = w.channels - c;
    value += k == 0 ? load(w.skip + c) * dy : (live >= kLanes ? load(place) : load_some(place, live));
    if (live >= kLanes) {
      store(place, value);
    } else {
      store_some(place, value, live);
    }
  }

  // Gradients of the projections and of the dt weights, which mix channels: after all channels of a segment.
  void finish_segment(const Segment& s) const {
    const int64_t blocks = w.padded / kBlock;
    for (int64_t at = 0; at < s.length; ++at) {
      float* out = grad.proj + (s.token + at * s.step) * stride + k * group;
      for (int64_t r = 0; r < w.rank; ++r) {
        Vec sum{};
        for (int64_t c = first; c < last; c += kLanes) {
          const float* weight = w.weight + ((k * blocks + c / kBlock) * w.rank + r) * kBlock + c % kBlock;
          sum += load(scratch.steps_grad + at * span + c - first) * load(weight);
        }
        out[r] = sum_lanes(sum) * kLn2;
      }
      for (int64_t n = 0; n < w.state; ++n) {
        const int64_t kept = (at * w.state + n) * kLanes;
        out[w.rank + n] = sum_lanes(load(scratch.b_grad + kept));
        out[w.rank + w.state + n] = sum_lanes(load(scratch.c_grad + kept));
      }
    }
    for (int64_t c = first; c < last; c += kLanes) {
      for (int64_t r = 0; r < w.rank; ++r) {
        float* weight = grad.weight + ((k * blocks + c / kBlock) * w.rank + r) * kBlock + c % kBlock;
        Vec sum{};
        for (int64_t at = 0; at < s.length; ++at) {
          sum += load(scratch.steps_grad + at * span + c - first) * proj_at(s.token + at * s.step)[r];
        }
        store(weight, load(weight) + sum);
      }
    }
  }

  // Copy what crosses the edge of a strip in chain `index` of the walk to `to`, times `factor`.
  void enter(const Walk& walk, const float* from, int64_t index, float factor, float* to) const {
    const int64_t place = walk.k == 3 ? walk.chains() - 1 - index : index;
    for (int64_t c = first; c < last; c += kLanes) {
      for (int64_t n = 0; n < w.state; ++n) {
        store(to + n * span + c - first, factor * load(from + state_place(w.state, walk.chains(), c, n, place)));
      }
    }
  }

  // What a segment does to the adjoint of the state that leaves it: g_in = P g_out + Q, into scratch.state and .adjoint.
  template <int T>
  void fold_adjoint(const Segment& s, int64_t at, int64_t c) const {
    const int64_t token = s.token + at * s.step;
    const float* p = proj_at(token);
    Vec z[T];
    logits<T>(w, k, c, p, s.step * stride, z);
    for (int t = 0; t < T; ++t) {
      const Vec step = softplus2(z[t]), dy = channels_at(grad_y, token + t * s.step, c);
      for (int64_t n = 0; n < w.state; ++n) {
        float* decay = scratch.state + n * span + c - first;
        float* adjoint = scratch.adjoint + n * span + c - first;
        const Vec a = load(decay) * exp2_bounded(step * load(w.rate + (k * w.state + n) * w.padded + c));
        store(decay, a);
        store(adjoint, load(adjoint) + a * dy * p[t * s.step * stride + w.rank + w.state + n]);
      }
    }
  }

  // The transition of the adjoint through each chain of a strip; see `Border` for where it lies in `into`.
  void summarize_adjoint(const Walk& walk, const vmamba::Transition& into) const {
    for (int64_t q = 0; q < walk.count(); ++q) {
      if (walk.begins_chain(q)) {
        for (int64_t i = 0; i < w.state * span; i += kLanes) {
          store(scratch.state + i, splat(1.0f));
          store(scratch.adjoint + i, Vec{});
        }
      }
      const Segment s = walk.segment(q);
      for (int64_t c = first; c < last; c += kLanes) {
        int64_t at = 0;
        for (; at + kGroup <= s.length; at += kGroup) fold_adjoint<kGroup>(s, at, c);
        for (; at < s.length; ++at) fold_adjoint<1>(s, at, c);
      }
      if (!walk.ends_chain(q)) continue;
      const int64_t index = walk.chain(q), place = walk.k == 3 ? walk.chains() - 1 - index : index;
      for (int64_t c = first; c < last; c += kLanes) {
        for (int64_t n = 0; n < w.state; ++n) {
          const int64_t to = state_place(w.state, walk.chains(), c, n, place);
          store(into.decay + to, load(scratch.state + n * span + c - first));
          store(into.state + to, load(scratch.adjoint + n * span + c - first));
        }
      }
    }
  }

  // `border` is null for a whole map, whose first state is zero and whose columns are one sequence.
  void run(const Walk& walk, const Border* border) const {
    const int64_t states = w.state * span;
    memset(scratch.state, 0, sizeof(float) * static_cast<size_t>(states));
    memset(scratch.adjoint, 0, sizeof(float) * static_cast<size_t>(states));
    for (int64_t q = 0; q < walk.count(); ++q) {
      if (border != nullptr && walk.begins_chain(q)) {
        enter(walk, border->entering, walk.chain(q), kLn2, scratch.state);
      }
      memcpy(scratch.entries + q * states, scratch.state, sizeof(float) * static_cast<size_t>(states));
      for (int64_t c = first; c < last; c += kLanes) forward_segment<false>(walk.segment(q), c);
    }
    const size_t kept = sizeof(float) * static_cast<size_t>(kSegment * w.state * kLanes);
    for (int64_t q = walk.count() - 1; q >= 0; --q) {
      const Segment s = walk.segment(q);
      if (border != nullptr && walk.ends_chain(q)) {
        enter(walk, border->leaving_grad, walk.chain(q), 1.0f, scratch.adjoint);
      }
      memcpy(scratch.state, scratch.entries + q * states, sizeof(float) * static_cast<size_t>(states));
      memset(scratch.b_grad, 0, kept);
      memset(scratch.c_grad, 0, kept);
      for (int64_t c = first; c < last; c += kLanes) {
        forward_segment<true>(s, c);
        adjoint_segment(s, c);
      }
      finish_segment(s);
    }
  }
};

void clear_gradients(const ScanWeights& w, const Gradients& grad, int64_t first, int64_t last) {
  const size_t span = sizeof(float) * static_cast<size_t>(last - first);
  memset(grad.skip + first, 0, span);
  for (int64_t k = 0; k < 4; ++k) {
    memset(grad.bias + k * w.padded + first, 0, span);
    for (int64_t n = 0; n < w.state; ++n) memset(grad.rate + (k * w.state + n) * w.padded + first, 0, span);
    memset(grad.weight + (k * w.padded + first) * w.rank, 0, span * static_cast<size_t>(w.rank));
  }
}

// `borders` are those of the four directions of a strip, or null for a whole map.
void backward_range(const ScanWeights& w, const Strip& map, const float* grad_y, const Border* borders,
                    const Gradients& grad, float* scratch_base, int64_t first, int64_t last) {
  clear_gradients(w, grad, first, last);
  const int64_t group = w.rank + 2 * w.state;
  // Vectors that lie wholly behind the last channel have nothing to do; their gradients stay zero.
  const int64_t end = last < w.channels ? last : (w.channels + kLanes - 1) / kLanes * kLanes;
  const Scratch scratch(scratch_base, w, map.rows, map.width, end - first);
  for (int k = 0; k < 4; ++k) {
    const Pass pass{w,     static_cast<const float*>(map.u), grad_y, map.proj,    grad,  scratch,
                    k,     first,                            end,    end - first, group, 4 * group};
    pass.run(Walk(k, map.rows, map.width), borders == nullptr ? nullptr : borders + k);
  }
}

// The transitions of the adjoint through a strip in the four directions.
void summarize_adjoint_range(const ScanWeights& w, const Strip& map, const float* grad_y,
                             const vmamba::Transition* into, float* scratch_base, int64_t first, int64_t last) {
  const int64_t group = w.rank + 2 * w.state;
  const Scratch scratch(scratch_base, w, map.rows, map.width, last - first);
  const int64_t end = last < w.channels ? last : (w.channels + kLanes - 1) / kLanes * kLanes;
  for (int k = 0; k < 4; ++k) {
    const Pass pass{w, nullptr, grad_y, map.proj, {}, scratch, k, first, end, end - first, group, 4 * group};
    pass.summarize_adjoint(Walk(k, map.rows, map.width), into[k]);
  }
}

int64_t backward_scratch_floats(const ScanWeights& w, int64_t rows, int64_t width, int64_t first, int64_t last) {
  return Scratch(nullptr, w, rows, width, last - first).total;
}

}  // namespace
