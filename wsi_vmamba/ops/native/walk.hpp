// The scan of small maps with one state per channel, and its gradients: each direction is walked token by token. A map
// that stays in the second-level cache needs no transitions of its columns (scan.hpp), so there are 4 evaluations per
// token and channel instead of 6, and short rows are no special case: the tokens of a walk are taken from a table.
#pragma once

#include "scan.hpp"
#include "token_math.hpp"

namespace {

using vmamba::WalkedGradients;
using vmamba::WalkedMap;

// Tokens handled together: they share the loads of weights and of what is added up over tokens.
constexpr int kWalkTokens = 4;
static_assert(kLanes % kWalkTokens == 0, "sums over channels are made for whole vectors of (token, number) pairs");
// Floats that are kept per token and channel between the two walks of the gradient: step, slope, decay and state.
constexpr int64_t kKept = 4;
// Floats kept at most, so that they stay in the second-level cache; a range of channels follows from it.
constexpr int64_t kKeptFloats = 128 * 1024;

// Convert `count` numbers to float32.
template <class X>
void widen(const X* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store_some(to + i, load_some(from + i, count - i), count - i);
}

// A map (tokens, channels) as float32 with rows of `pitch` numbers, zeros behind the channels: the map itself where it is
// so already, else a copy in `space`.
VMAMBA_INLINE const float* widened(const void* map, Storage storage, int64_t tokens, int64_t channels, int64_t pitch,
                                   float* space) {
  if (storage == Storage::float32 && pitch == channels) return static_cast<const float*>(map);
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = space + t * pitch;
    if (storage == Storage::bfloat16) {
      widen(static_cast<const Bf16*>(map) + t * channels, row, channels);
    } else {
      widen(static_cast<const float*>(map) + t * channels, row, channels);
    }
    if (pitch > channels) memset(row + channels, 0, sizeof(float) * static_cast<size_t>(pitch - channels));
  }
  return space;
}

// Where a map (tokens, channels) is to be computed: in place where it is float32 with rows of `pitch`, else in `space`.
VMAMBA_INLINE float* place_of(void* map, Storage storage, int64_t channels, int64_t pitch, float* space) {
  return storage == Storage::float32 && pitch == channels ? static_cast<float*>(map) : space;
}

// Bring a map to where it belongs if it was computed elsewhere.
VMAMBA_INLINE void bring(const float* computed, void* map, Storage storage, int64_t tokens, int64_t channels,
                         int64_t pitch) {
  if (computed == map) return;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Vec value = load(computed + t * pitch + c);
      const int64_t live = channels - c, place = t * channels + c;
      if (storage == Storage::bfloat16) {
        Bf16* out = static_cast<Bf16*>(map) + place;
        live >= kLanes ? store(out, value) : store_some(out, value, live);
      } else {
        float* out = static_cast<float*>(map) + place;
        live >= kLanes ? store(out, value) : store_some(out, value, live);
      }
    }
  }
}

VMAMBA_INLINE int64_t whole_vectors(int64_t channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

VMAMBA_INLINE const float* dt_weight(const ScanWeights& w, int k, int64_t c) {
  return w.weight + (k * (w.padded / kBlock) + c / kBlock) * w.rank * kBlock + c % kBlock;
}

// W dt_r + b in base 2 of T tokens, for the vector of channels at c.
template <int T>
VMAMBA_INLINE void walk_logits(const ScanWeights& w, int k, int64_t c, const float* const* proj, Vec* z) {
  const float* weight = dt_weight(w, k, c);
  const Vec bias = load(w.bias + k * w.padded + c);
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) z[t] = bias;
  for (int64_t r = 0; r < w.rank; ++r) {
    const Vec row = load(weight + r * kBlock);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) z[t] += row * proj[t][r];
  }
}

// One image with everything in float32.
struct WalkPass {
  const ScanWeights& w;
  const float* u;
  const float* proj;
  int64_t tokens, pitch, group, stride;

  template <int T>
  VMAMBA_MEMBER void find(const int32_t* walk, int k, int64_t* token, const float** p) const {
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) {
      token[t] = walk[t];
      p[t] = proj + token[t] * stride + k * group;
    }
  }

  // T tokens of direction k; `state` is divided by ln 2, and the last direction puts that right and adds the skip.
  template <int T>
  void step(const int32_t* walk, int k, float* state, float* y, int64_t end) const {
    int64_t token[T];
    const float* p[T];
    find<T>(walk, k, token, p);
    for (int64_t c = 0; c < end; c += kLanes) {
      Vec d[T], a[T], x[T];
      walk_logits<T>(w, k, c, p, d);
      constexpr int together = T < kLockstep ? T : kLockstep;
      VMAMBA_UNROLL
      for (int t = 0; t < T; t += together) softplus2<together>(d + t);
      decays<T, Exact>(d, load(w.rate + k * w.padded + c), a);
      Vec h = load(state + c);
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) {
        x[t] = load(u + token[t] * pitch + c);
        h = a[t] * h + d[t] * x[t] * p[t][w.rank];
        float* out = y + token[t] * pitch + c;
        Vec sum = h * p[t][w.rank + 1];
        if (k > 0) sum += load(out);
        if (k == 3) sum = sum * kLn2 + load(w.skip + c) * x[t];
        store(out, sum);
      }
      store(state + c, h);
    }
  }

  void scan(const int32_t* walks, float* state, float* y) const {
    const int64_t end = whole_vectors(w.channels);
    for (int k = 0; k < 4; ++k, walks += tokens) {
      memset(state, 0, sizeof(float) * static_cast<size_t>(end));
      int64_t t = 0;
      for (; t + kWalkTokens <= tokens; t += kWalkTokens) step<kWalkTokens>(walks + t, k, state, y, end);
      for (; t < tokens; ++t) step<1>(walks + t, k, state, y, end);
    }
  }
};

int64_t walk_scratch_floats(const ScanWeights& w, int64_t tokens) {
  return tokens * (2 * w.padded + 4 * (w.rank + 2)) + w.padded;
}

void walk_map(const ScanWeights& w, const WalkedMap& map, const int32_t* walks, void* y, float* scratch) {
  const int64_t pitch = w.channels % kLanes == 0 ? w.channels : w.padded;
  const int64_t group = w.rank + 2, size = map.tokens * w.padded;
  const float* u = widened(map.u, map.storage, map.tokens, w.channels, pitch, scratch);
  float* out = place_of(y, map.storage, w.channels, pitch, scratch + size);
  const float* proj = widened(map.proj, map.proj_storage, map.tokens, 4 * group, 4 * group, scratch + 2 * size);
  float* state = scratch + 2 * size + map.tokens * 4 * group;
  WalkPass{w, u, proj, map.tokens, pitch, group, 4 * group}.scan(walks, state, out);
  bring(out, y, map.storage, map.tokens, w.channels, pitch);
}

// softplus2 of z[t] in place, its natural derivative 1 / (1 + 2^-z[t]) in slope[t].
template <int T>
VMAMBA_INLINE void softplus2_and_slope(Vec* z, Vec* slope) {
  Vec e[T];
  lockstep<T>([&](int t) { e[t] = negative_abs(z[t]); });
  exp2_bounded<T>(e);
  lockstep<T>([&](int t) { slope[t] = (z[t] < Vec{} ? e[t] : splat(1.0f)) * reciprocal(1.0f + e[t]); });
  softplus2_from<T, Exact>(z, e);
}

// The gradients of one image, for channels [first, last), a whole number of vectors.
struct WalkGradientPass {
  const WalkPass& pass;
  const float* dy;
  float *du, *dproj;
  const WalkedGradients& grad;
  float *kept, *adjoint, *dz;
  int64_t first, last;

  const ScanWeights& w() const { return pass.w; }
  int64_t span() const { return last - first; }

  // Where what is kept of the token at place `t` of the walk lies, for the vector of channels at c.
  float* kept_at(int64_t t, int64_t c) const { return kept + (t * span() + c - first) * kKept; }

  // Walk T tokens forwards and keep what the adjoint needs.
  template <int T>
  void forwards(const int32_t* walk, int64_t at, int k) const {
    int64_t token[T];
    const float* p[T];
    pass.find<T>(walk + at, k, token, p);
    for (int64_t c = first; c < last; c += kLanes) {
      Vec d[T], slope[T], a[T];
      walk_logits<T>(w(), k, c, p, d);
      constexpr int together = T < kLockstep ? T : kLockstep;
      VMAMBA_UNROLL
      for (int t = 0; t < T; t += together) softplus2_and_slope<together>(d + t, slope + t);
      decays<T, Exact>(d, load(w().rate + k * w().padded + c), a);
      float* state = adjoint + c - first;
      Vec h = load(state);
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) {
        const Vec step = d[t] * kLn2;
        float* place = kept_at(at + t, c);
        store(place, step);
        store(place + kLanes, slope[t]);
        store(place + 2 * kLanes, a[t]);
        h = a[t] * h;
        store(place + 3 * kLanes, h);
        h += step * load(pass.u + token[t] * pass.pitch + c) * p[t][w().rank];
      }
      store(state, h);
    }
  }

  // Run the adjoint backwards through T tokens.
  template <int T>
  void backwards(const int32_t* walk, int64_t at, int k) const {
    int64_t token[T];
    const float* p[T];
    pass.find<T>(walk + at, k, token, p);
    Vec b_sum[T] = {}, c_sum[T] = {};
    for (int64_t c = first; c < last; c += kLanes) {
      const int64_t place = k * w().padded + c;
      const Vec rate = load(w().rate + place);
      const Vec skip = k == 0 ? load(w().skip + c) : Vec{};
      Vec carried = load(adjoint + c - first);
      Vec rate_grad = load(grad.rate + place), bias_grad = load(grad.bias + place), skip_grad{};
      Vec logit_grad[T];
      VMAMBA_UNROLL
      for (int t = T - 1; t >= 0; --t) {
        const float* numbers = kept_at(at + t, c);
        const Vec step = load(numbers), slope = load(numbers + kLanes), a = load(numbers + 2 * kLanes),
                  decayed = load(numbers + 3 * kLanes);
        const Vec x = load(pass.u + token[t] * pass.pitch + c), e = load(dy + token[t] * pass.pitch + c);
        const float b = p[t][w().rank], read = p[t][w().rank + 1];
        const Vec input = step * x;
        const Vec g = e * read + carried;
        c_sum[t] += e * (input * b + decayed);
        b_sum[t] += g * input;
        const Vec gain = g * b, lost = g * decayed;
        rate_grad += lost * step;
        logit_grad[t] = (lost * rate + gain * x) * slope;
        bias_grad += logit_grad[t];
        float* out = du + token[t] * pass.pitch + c;
        if (k == 0) {
          skip_grad += e * x;
          store(out, gain * step + skip * e);
        } else {
          store(out, gain * step + load(out));
        }
        carried = a * g;
      }
      store(adjoint + c - first, carried);
      store(grad.rate + place, rate_grad);
      store(grad.bias + place, bias_grad);
      if (k == 0) store(grad.skip + c, load(grad.skip + c) + skip_grad);
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) store(dz + t * span() + c - first, logit_grad[t]);
      float* weight = grad.weight + (dt_weight(w(), k, c) - w().weight);
      for (int64_t r = 0; r < w().rank; ++r) {
        Vec sum = load(weight + r * kBlock);
        VMAMBA_UNROLL
        for (int t = 0; t < T; ++t) sum += logit_grad[t] * p[t][r];
        store(weight + r * kBlock, sum);
      }
    }
    sum_channels<T>(token, k, b_sum, c_sum);
  }

  // Gradients of the projections: rank sums of dz times a row of the dt weights, then those for B and C.
  template <int T>
  VMAMBA_MEMBER void sum_channels(const int64_t* token, int k, const Vec* b_sum, const Vec* c_sum) const {
    constexpr int rows = kLanes / T;
    const int64_t rank = w().rank;
    for (int64_t q = 0; q < pass.group; q += rows) {
      Vec v[kLanes] = {};
      const int64_t products = rank - q < rows ? rank - q : rows;
      if (products == rows) {
        multiply<T, rows>(k, q, v);
      } else {
        for (int64_t i = 0; i < products; ++i) multiply<T, 1>(k, q + i, v + i);
        for (int64_t i = products > 0 ? products : 0; i < rows && q + i < pass.group; ++i) {
          VMAMBA_UNROLL
          for (int t = 0; t < T; ++t) v[t * rows + i] = q + i == rank ? b_sum[t] : c_sum[t];
        }
      }
      float sums[kLanes];
      store(sums, sums_of(v));
      const int64_t live = pass.group - q < rows ? pass.group - q : rows;
      for (int t = 0; t < T; ++t) {
        float* out = dproj + token[t] * pass.stride + k * pass.group + q;
        if (first > 0) {
          for (int64_t i = 0; i < live; ++i) out[i] += sums[t * rows + i];
        } else if (live == rows) {
          memcpy(out, sums + t * rows, sizeof(float) * rows);
        } else {
          memcpy(out, sums + t * rows, sizeof(float) * static_cast<size_t>(live));
        }
      }
    }
  }

  // v[t * rows + i] = dz of token t times row q + i of the dt weights, for Rows rows; `rows` as above.
  template <int T, int Rows>
  VMAMBA_MEMBER void multiply(int k, int64_t q, Vec* v) const {
    Vec sum[Rows * T] = {};
    for (int64_t c = first; c < last; c += kLanes) {
      const float* weight = dt_weight(w(), k, c) + q * kBlock;
      Vec z[T];
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) z[t] = load(dz + t * span() + c - first);
      VMAMBA_UNROLL
      for (int i = 0; i < Rows; ++i) {
        const Vec row = load(weight + i * kBlock);
        VMAMBA_UNROLL
        for (int t = 0; t < T; ++t) sum[i * T + t] += z[t] * row;
      }
    }
    VMAMBA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) v[t * (kLanes / T) + i] = sum[i * T + t] * kLn2;
    }
  }

  void run(const int32_t* walks) const {
    const size_t states = sizeof(float) * static_cast<size_t>(span());
    const int64_t tokens = pass.tokens, whole = tokens / kWalkTokens * kWalkTokens;
    for (int k = 0; k < 4; ++k, walks += tokens) {
      memset(adjoint, 0, states);
      for (int64_t t = 0; t < whole; t += kWalkTokens) forwards<kWalkTokens>(walks, t, k);
      for (int64_t t = whole; t < tokens; ++t) forwards<1>(walks, t, k);
      memset(adjoint, 0, states);
      for (int64_t t = tokens - 1; t >= whole; --t) backwards<1>(walks, t, k);
      for (int64_t t = whole - kWalkTokens; t >= 0; t -= kWalkTokens) backwards<kWalkTokens>(walks, t, k);
    }
  }
};

// Channels whose numbers are kept at once.
VMAMBA_INLINE int64_t walk_span(const ScanWeights& w, int64_t tokens) {
  const int64_t fitting = kKeptFloats / (kKept * tokens) / kBlock * kBlock;
  const int64_t span = fitting > kBlock ? fitting : kBlock;
  return span < w.padded ? span : w.padded;
}

int64_t walk_gradients_scratch_floats(const ScanWeights& w, int64_t tokens) {
  const int64_t span = walk_span(w, tokens);
  return tokens * (3 * w.padded + 8 * (w.rank + 2) + kKept * span) + (1 + kWalkTokens) * span;
}

void walk_gradients(const ScanWeights& w, const WalkedMap& map, const int32_t* walks, const void* dy,
                    const WalkedGradients& grad, float* scratch) {
  const int64_t pitch = w.channels % kLanes == 0 ? w.channels : w.padded;
  const int64_t group = w.rank + 2, stride = 4 * group;
  const int64_t size = map.tokens * w.padded, projected = map.tokens * stride, span = walk_span(w, map.tokens);
  auto take = [&scratch](int64_t count) {
    float* place = scratch;
    scratch += count;
    return place;
  };
  const float* u = widened(map.u, map.storage, map.tokens, w.channels, pitch, take(size));
  const float* dy_wide = widened(dy, map.storage, map.tokens, w.channels, pitch, take(size));
  float* du = place_of(grad.u, map.storage, w.channels, pitch, take(size));
  const float* proj = widened(map.proj, map.proj_storage, map.tokens, stride, stride, take(projected));
  float* dproj = place_of(grad.proj, map.proj_storage, stride, stride, take(projected));
  float *kept = take(kKept * map.tokens * span), *adjoint = take(span), *dz = take(kWalkTokens * span);
  const WalkPass pass{w, u, proj, map.tokens, pitch, group, stride};
  const int64_t end = whole_vectors(w.channels);
  for (int64_t first = 0; first < end; first += span) {
    const int64_t last = first + span < end ? first + span : end;
    WalkGradientPass{pass, dy_wide, du, dproj, grad, kept, adjoint, dz, first, last}.run(walks);
  }
  bring(du, grad.u, map.storage, map.tokens, w.channels, pitch);
  if (dproj != grad.proj) bring(dproj, grad.proj, map.proj_storage, 1, projected, projected);
}

}  // namespace
