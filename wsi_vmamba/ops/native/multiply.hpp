// Products of a few tokens, which lie in the cache, with packed matrices (tokens.hpp). Tokens are float32, or bfloat16
// where the machine multiplies pairs of those; sums are float32.
#pragma once

#include "token_math.hpp"
#include "tokens.hpp"

namespace {

using vmamba::kBlock;

// Tokens that go through an operator together: whole tiles of every kind below. Whole tiles are read; of the last, only
// what is a token's is written.
constexpr int64_t kTogether = 96;

// Tokens as the products take them: token t, in each of `count` runs of `length` numbers, starts at runs[r] + t stride.
template <class A>
struct Operand {
  const A* runs[3];
  int64_t count, length, stride;
};

// Registers for sums: T tokens by V vectors of outputs.
constexpr int kTileTokens = kLanes == 16 ? 12 : 6;
constexpr int kTileVectors = 2;

// Where the vector of outputs from `output` on lies in row 0 of panels of `inputs` rows.
VMAMBA_INLINE int64_t panel_place(int64_t output, int64_t inputs) {
  return output / kBlock * inputs * kBlock + output % kBlock;
}

// A matrix as products take it: packed panels, and a bias of whole blocks, perhaps null.
template <class A>
struct Matrix {
  const A* weight;
  const float* bias;
  int64_t inputs, outputs;

  explicit Matrix(const vmamba::Panels& panels)
      : weight(static_cast<const A*>(panels.weight)), bias(panels.bias), inputs(panels.inputs), outputs(panels.outputs) {}
  int64_t padded() const { return (outputs + kBlock - 1) / kBlock * kBlock; }
};

// Products of a tile, added to the sums of T tokens by V vectors of outputs.
template <int T, int V>
VMAMBA_INLINE void add_products(const Operand<float>& a, int64_t token, const Matrix<float>& matrix, int64_t output,
                                Vec (&sum)[T][V]) {
  const float* w[V];
  VMAMBA_UNROLL
  for (int v = 0; v < V; ++v) w[v] = matrix.weight + panel_place(output + v * kLanes, matrix.inputs);
  for (int64_t r = 0; r < a.count; ++r) {
    const float* x = a.runs[r] + token * a.stride;
    for (int64_t k = 0; k < a.length; ++k) {
      Vec row[V];
      VMAMBA_UNROLL
      for (int v = 0; v < V; ++v) row[v] = load(w[v] + k * kBlock);
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) {
        VMAMBA_UNROLL
        for (int v = 0; v < V; ++v) sum[t][v] += row[v] * x[t * a.stride + k];
      }
    }
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) w[v] += a.length * kBlock;
  }
}

#if defined(__AMX_BF16__)

// The shapes of the tile registers while this lives: tokens by `chunk` inputs, `chunk` inputs by outputs, and sums of
// 16 x 16. Another library's shapes are put back.
class Tiles {
 public:
  explicit Tiles(int64_t chunk) {
    _tile_storeconfig(before_);
    alignas(64) uint8_t config[64] = {1};
    for (int i = 0; i < 8; ++i) {
      const bool tokens = i == 4 || i == 5, panel = i >= 6;
      const auto columns = static_cast<uint16_t>(tokens ? 2 * chunk : 64);
      memcpy(config + 16 + 2 * i, &columns, sizeof columns);
      config[48 + i] = static_cast<uint8_t>(panel ? chunk / 2 : 16);
    }
    _tile_loadconfig(config);
  }
  ~Tiles() {
    if (before_[0] != 0) {
      _tile_loadconfig(before_);
    } else {
      _tile_release();
    }
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  alignas(64) uint8_t before_[64];
};

VMAMBA_INLINE void memory_is_written() { asm volatile("" ::: "memory"); }

// Sums of two tiles of tokens by one or two panels, side by side in `sums`.
template <bool Two>
VMAMBA_INLINE void multiply_tiles(const Operand<Bf16>& a, int64_t token, const Matrix<Bf16>& matrix, int64_t output,
                                  int64_t chunk, float* sums) {
  constexpr size_t row = 4 * (Two ? 2 : 1) * kBlock;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Bf16* w = matrix.weight + output * matrix.inputs;
  const auto stride = static_cast<size_t>(2 * a.stride);
  for (int64_t r = 0; r < a.count; ++r) {
    const Bf16* x = a.runs[r] + token * a.stride;
    for (int64_t k = 0; k < a.length; k += chunk, w += chunk * kBlock) {
      _tile_loadd(6, w, 64);
      _tile_loadd(4, x + k, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, x + 16 * a.stride + k, stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (Two) {
        _tile_loadd(7, w + matrix.inputs * kBlock, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, row);
  _tile_stored(2, sums + 4 * row, row);
  if constexpr (Two) {
    _tile_stored(1, sums + kBlock, row);
    _tile_stored(3, sums + 4 * row + kBlock, row);
  }
}

VMAMBA_INLINE int64_t chunk_of(int64_t length) { return length % 32 == 0 ? 32 : 16; }

constexpr int kTilesTokens = 32;

// T tokens of what multiply_tiles left.
template <int T, int V, class Finish>
VMAMBA_INLINE void finish_tiles(const float* sums, int64_t token, const float* bias, int64_t output, Finish finish) {
  Vec sum[T][V];
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) {
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) {
      sum[t][v] = load(sums + (t * V + v) * kBlock);
      if (bias != nullptr) sum[t][v] += load(bias + output + v * kBlock);
    }
  }
  finish(sum, token, output);
}

template <bool Two, class Finish>
VMAMBA_INLINE void multiply_tokens_in_tiles(const Operand<Bf16>& a, int64_t tokens, const Matrix<Bf16>& w, int64_t output,
                                            int64_t chunk, Finish finish) {
  constexpr int V = Two ? 2 : 1, together = 4;
  alignas(64) float sums[kTilesTokens * V * kBlock];
  for (int64_t token = 0; token < tokens; token += kTilesTokens) {
    multiply_tiles<Two>(a, token, w, output, chunk, sums);
    memory_is_written();
    const int64_t live = tokens - token < kTilesTokens ? tokens - token : kTilesTokens;
    int64_t t = 0;
    for (; t + together <= live; t += together) {
      finish_tiles<together, V>(sums + t * V * kBlock, token + t, w.bias, output, finish);
    }
    for (; t < live; ++t) finish_tiles<1, V>(sums + t * V * kBlock, token + t, w.bias, output, finish);
  }
}

template <class Finish>
VMAMBA_INLINE void multiply(const Operand<Bf16>& a, const Matrix<Bf16>& w, int64_t tokens, Finish finish) {
  const int64_t chunk = chunk_of(a.length);
  const Tiles shapes(chunk);
  memory_is_written();
  int64_t output = 0;
  for (; output + 2 * kBlock <= w.padded(); output += 2 * kBlock) {
    multiply_tokens_in_tiles<true>(a, tokens, w, output, chunk, finish);
  }
  if (output < w.padded()) multiply_tokens_in_tiles<false>(a, tokens, w, output, chunk, finish);
}

#elif defined(__AVX512BF16__) && VMAMBA_LANES == 16

template <int T, int V>
VMAMBA_INLINE void add_products(const Operand<Bf16>& a, int64_t token, const Matrix<Bf16>& matrix, int64_t output,
                                Vec (&sum)[T][V]) {
  const Bf16* w = matrix.weight + output * matrix.inputs;
  for (int64_t r = 0; r < a.count; ++r) {
    const Bf16* x = a.runs[r] + token * a.stride;
    for (int64_t k = 0; k < a.length; k += 2, w += 2 * kBlock) {
      __m512bh row[V];
      VMAMBA_UNROLL
      for (int v = 0; v < V; ++v) memcpy(&row[v], w + v * matrix.inputs * kBlock, sizeof row[v]);
      VMAMBA_UNROLL
      for (int t = 0; t < T; ++t) {
        int32_t pair;
        memcpy(&pair, x + t * a.stride + k, sizeof pair);
        const auto both = bits_as<__m512bh>(_mm512_set1_epi32(pair));
        VMAMBA_UNROLL
        for (int v = 0; v < V; ++v) sum[t][v] = _mm512_dpbf16_ps(sum[t][v], both, row[v]);
      }
    }
  }
}

#endif

template <int T, int V>
VMAMBA_INLINE void start_sums(const float* bias, int64_t output, Vec (&sum)[T][V]) {
  VMAMBA_UNROLL
  for (int v = 0; v < V; ++v) {
    const Vec start = bias == nullptr ? Vec{} : load(bias + output + v * kLanes);
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) sum[t][v] = start;
  }
}

// finish(sums of T tokens by V vectors, first token, first output) while they are in registers.
template <int V, class A, class Finish>
VMAMBA_INLINE void multiply_tile(const Operand<A>& a, int64_t token, const Matrix<A>& w, int64_t output, Finish finish) {
  Vec sum[kTileTokens][V];
  start_sums(w.bias, output, sum);
  add_products(a, token, w, output, sum);
  finish(sum, token, output);
}

// The last, partial tile. Not inlined: indexed by a variable, sums are kept in memory, and would be for whole tiles too.
template <int V, class A, class Finish>
__attribute__((noinline)) void multiply_last(const Operand<A>& a, int64_t token, int64_t live, const Matrix<A>& w, int64_t output,
                                             Finish finish) {
  Vec sum[kTileTokens][V];
  start_sums(w.bias, output, sum);
  add_products(a, token, w, output, sum);
  for (int64_t t = 0; t < live; ++t) {
    Vec one[1][V];
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) one[0][v] = sum[t][v];
    finish(one, token + t, output);
  }
}

template <int V, class A, class Finish>
VMAMBA_INLINE void multiply_tokens(const Operand<A>& a, int64_t tokens, const Matrix<A>& w, int64_t output, Finish finish) {
  int64_t t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens) multiply_tile<V>(a, t, w, output, finish);
  if (t < tokens) multiply_last<V>(a, t, tokens - t, w, output, finish);
}

// finish(...) every sum of `tokens` tokens and a matrix, its bias included.
template <class A, class Finish>
VMAMBA_INLINE void multiply(const Operand<A>& a, const Matrix<A>& w, int64_t tokens, Finish finish) {
  int64_t output = 0;
  for (; output + kTileVectors * kLanes <= w.padded(); output += kTileVectors * kLanes) {
    multiply_tokens<kTileVectors>(a, tokens, w, output, finish);
  }
  for (; output < w.padded(); output += kLanes) multiply_tokens<1>(a, tokens, w, output, finish);
}

}  // namespace
