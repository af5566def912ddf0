// What becomes of the sums of a product while they are in registers (multiply.hpp): objects called with the sums of T tokens
// by V vectors of outputs, the first token and the first output.
#pragma once

#include "multiply.hpp"

namespace {

// Written, or added to what is there.
template <bool Add, class Y>
struct Put {
  Y* out;
  int64_t pitch, outputs;

  template <int T, int V>
  VMAMBA_MEMBER void operator()(Vec (&sum)[T][V], int64_t token, int64_t output) const {
    VMAMBA_UNROLL
    for (int v = 0; v < V; ++v) {
      const int64_t at = output + v * kLanes;
      if (at + kLanes <= outputs) {
        VMAMBA_UNROLL
        for (int t = 0; t < T; ++t) {
          Y* to = out + (token + t) * pitch + at;
          store(to, Add ? sum[t][v] + load(to) : sum[t][v]);
        }
      } else if (at < outputs) {
        VMAMBA_UNROLL
        for (int t = 0; t < T; ++t) {
          Y* to = out + (token + t) * pitch + at;
          store_some(to, Add ? sum[t][v] + load_some(to, outputs - at) : sum[t][v], outputs - at);
        }
      }
    }
  }
};

// Asks for tokens that come next, with each tile of a long product for its share of them: asked for all at once they would
// hold the product up. Beyond the end of an array it is harmless.
class Ahead {
 public:
  template <class X>
  Ahead(const X* next, int64_t channels, int64_t outputs)
      : next_(reinterpret_cast<const char*>(next)),
        bytes_(channels * static_cast<int64_t>(sizeof(X))),
        share_(bytes_ * kWhole / outputs) {}

  template <int T>
  VMAMBA_MEMBER void ask(int64_t token, int64_t output) const {
    const char* place = next_ + token * bytes_ + output * share_ / kWhole;
    VMAMBA_UNROLL
    for (int t = 0; t < T; ++t) __builtin_prefetch(place + t * bytes_);
  }

 private:
  static constexpr int64_t kWhole = 1 << 16;
  const char* next_;
  int64_t bytes_, share_;  // of a token; of one of the outputs, in parts of kWhole
};

template <class Y, int T>
VMAMBA_INLINE void gelu_vectors(Vec* value) {
  if constexpr (sizeof(Y) == sizeof(Bf16)) {
    gelu_rough<T>(value);
  } else {
    gelu_exact<T>(value);
  }
}

// Written with GELU, whole blocks, while what is needed next is read ahead.
template <class Y>
struct PutGelu {
  Y* out;
  int64_t pitch;
  Ahead residual, scanned;

  template <int T, int V>
  VMAMBA_MEMBER void operator()(Vec (&sum)[T][V], int64_t token, int64_t output) const {
    residual.ask<T>(token, output);
    scanned.ask<T>(token, output);
    constexpr int down = T % 2 == 0 ? 2 : 1, together = down * V;
    VMAMBA_UNROLL
    for (int t = 0; t < T; t += down) {
      Vec value[together];
      lockstep<together>([&](int i) { value[i] = sum[t + i / V][i % V]; });
      gelu_vectors<Y, together>(value);
      lockstep<together>([&](int i) { store(out + (token + t + i / V) * pitch + output + i % V * kLanes, value[i]); });
    }
  }
};

}  // namespace
