// Products of a few tokens, which lie in the cache, with packed matrices (tokens.hpp). Tokens are float32, or bfloat16
// where the machine multiplies pairs of those; sums are float32.
#pragma once

#include "token_math.hpp"
#include "tokens.hpp"

namespace {

using vmamba::kBlock;

// Tokens that go through an operator together: whole tiles of every kind below. Results are computed for whole tiles;
// what lies behind the last token is nobody's.
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

// Where vector v of the outputs from `output` on lies in row 0 of panels of `inputs` rows of `each` numbers per output.
VMAMBA_INLINE int64_t panel_place(int64_t output, int64_t inputs) {
  return output / kBlock * inputs * kBlock + output % kBlock;
}

template <int V>
VMAMBA_INLINE void multiply_tile(const Operand<float>& a, int64_t token, const float* weight, int64_t inputs, int64_t output,
                                 float* sums, int64_t pitch) {
  constexpr int T = kTileTokens;
  const float* w[V];
  VMAMBA_UNROLL
  for (int v = 0; v < V; ++v) w[v] = weight + panel_place(output + v * kLanes, inputs);
  Vec sum[T][V] = {};
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
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) {
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) store(sums + (token + t) * pitch + output + v * kLanes, sum[t][v]);
  }
}

// sums (tokens, outputs filled up to whole blocks), rows `pitch` apart.
VMAMBA_INLINE void multiply(const Operand<float>& a, const float* weight, int64_t outputs, int64_t tokens, float* sums,
                            int64_t pitch) {
  const int64_t inputs = a.count * a.length, padded = (outputs + kBlock - 1) / kBlock * kBlock;
  int64_t output = 0;
  for (; output + kTileVectors * kLanes <= padded; output += kTileVectors * kLanes) {
    for (int64_t t = 0; t < tokens; t += kTileTokens) {
      multiply_tile<kTileVectors>(a, t, weight, inputs, output, sums, pitch);
    }
  }
  for (; output < padded; output += kLanes) {
    for (int64_t t = 0; t < tokens; t += kTileTokens) multiply_tile<1>(a, t, weight, inputs, output, sums, pitch);
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

// Two tiles of tokens by one or two panels.
template <bool Two>
VMAMBA_INLINE void multiply_tiles(const Operand<Bf16>& a, int64_t token, const Bf16* weight, int64_t inputs, int64_t output,
                                  int64_t chunk, float* sums, int64_t pitch) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Bf16* w = weight + output * inputs;
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
        _tile_loadd(7, w + inputs * kBlock, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  float* to = sums + token * pitch + output;
  const auto row = static_cast<size_t>(4 * pitch);
  _tile_stored(0, to, row);
  _tile_stored(2, to + 16 * pitch, row);
  if constexpr (Two) {
    _tile_stored(1, to + kBlock, row);
    _tile_stored(3, to + 16 * pitch + kBlock, row);
  }
}

VMAMBA_INLINE int64_t chunk_of(int64_t length) { return length % 32 == 0 ? 32 : 16; }

VMAMBA_INLINE void multiply(const Operand<Bf16>& a, const Bf16* weight, int64_t outputs, int64_t tokens, float* sums,
                            int64_t pitch) {
  const int64_t inputs = a.count * a.length, padded = (outputs + kBlock - 1) / kBlock * kBlock;
  const int64_t chunk = chunk_of(a.length);
  const Tiles shapes(chunk);
  memory_is_written();
  int64_t output = 0;
  for (; output + 2 * kBlock <= padded; output += 2 * kBlock) {
    for (int64_t t = 0; t < tokens; t += 32) multiply_tiles<true>(a, t, weight, inputs, output, chunk, sums, pitch);
  }
  if (output < padded) {
    for (int64_t t = 0; t < tokens; t += 32) multiply_tiles<false>(a, t, weight, inputs, output, chunk, sums, pitch);
  }
  memory_is_written();
}

#elif defined(__AVX512BF16__) && VMAMBA_LANES == 16

template <int V>
VMAMBA_INLINE void multiply_tile(const Operand<Bf16>& a, int64_t token, const Bf16* weight, int64_t inputs, int64_t output,
                                 float* sums, int64_t pitch) {
  constexpr int T = kTileTokens;
  const Bf16* w = weight + output * inputs;
  Vec sum[T][V] = {};
  for (int64_t r = 0; r < a.count; ++r) {
    const Bf16* x = a.runs[r] + token * a.stride;
    for (int64_t k = 0; k < a.length; k += 2, w += 2 * kBlock) {
      __m512bh row[V];
      VMAMBA_UNROLL
      for (int v = 0; v < V; ++v) memcpy(&row[v], w + v * inputs * kBlock, sizeof row[v]);
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
  VMAMBA_UNROLL
  for (int t = 0; t < T; ++t) {
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) store(sums + (token + t) * pitch + output + v * kLanes, sum[t][v]);
  }
}

VMAMBA_INLINE void multiply(const Operand<Bf16>& a, const Bf16* weight, int64_t outputs, int64_t tokens, float* sums,
                            int64_t pitch) {
  const int64_t inputs = a.count * a.length, padded = (outputs + kBlock - 1) / kBlock * kBlock;
  int64_t output = 0;
  for (; output + 2 * kBlock <= padded; output += 2 * kBlock) {
    for (int64_t t = 0; t < tokens; t += kTileTokens) multiply_tile<2>(a, t, weight, inputs, output, sums, pitch);
  }
  if (output < padded) {
    for (int64_t t = 0; t < tokens; t += kTileTokens) multiply_tile<1>(a, t, weight, inputs, output, sums, pitch);
  }
}

#endif

}  // namespace
