// All kernels for one instruction set. The build compiles this file several times, each with its own flags,
// VMAMBA_LANES and VMAMBA_ISA (the name of the instruction set, which also names the function at the end).
#include "backward.hpp"
#include "local.hpp"
#include "stem.hpp"

namespace {

using vmamba::Kernels;
using vmamba::Sweep;

void summarize(const ScanWeights& w, const Strip& strip, const Carry& carry, bool fresh, bool row_forward,
               bool row_backward, int64_t first, int64_t last) {
  const bool half = strip.storage == Storage::bfloat16;
  const auto run = w.state == 1 ? (half ? summarize_strip<1, Bf16> : summarize_strip<1, float>)
                                : (half ? summarize_strip<0, Bf16> : summarize_strip<0, float>);
  run(w, strip, carry, fresh, row_forward, row_backward, first, last);
}

void summarize_columns(const ScanWeights& w, const Strip& strip, const Carry& carry, bool fresh, int64_t begin,
                       int64_t end, int64_t first, int64_t last) {
  const bool half = strip.storage == Storage::bfloat16;
  const auto run = w.state == 1 ? (half ? columns_of_strip<1, Bf16> : columns_of_strip<1, float>)
                                : (half ? columns_of_strip<0, Bf16> : columns_of_strip<0, float>);
  run(w, strip, carry, fresh, begin, end, first, last);
}

void sweep(const ScanWeights& w, const Strip& strip, const Carry& carry, const Sweep& way, float* y, int64_t first,
           int64_t last) {
  const bool half = strip.storage == Storage::bfloat16;
  const auto run = w.state == 1 ? (half ? sweep_strip<1, Bf16> : sweep_strip<1, float>)
                                : (half ? sweep_strip<0, Bf16> : sweep_strip<0, float>);
  run(w, strip, carry, way, y, first, last);
}

template <class X>
void norm_from(const void* x, void* out, Storage to, const void* gate, const float* weight, const float* bias,
               float eps, int64_t tokens, int64_t channels) {
  const X* in = static_cast<const X*>(x);
  const X* factor = static_cast<const X*>(gate);
  if (to == Storage::bfloat16) {
    layer_norm(in, static_cast<Bf16*>(out), factor, weight, bias, eps, tokens, channels);
  } else {
    layer_norm(in, static_cast<float*>(out), factor, weight, bias, eps, tokens, channels);
  }
}

void norm(const void* x, Storage from, void* out, Storage to, const void* gate, const float* weight,
          const float* bias, float eps, int64_t tokens, int64_t channels) {
  const auto run = from == Storage::bfloat16 ? norm_from<Bf16> : norm_from<float>;
  run(x, out, to, gate, weight, bias, eps, tokens, channels);
}

void depthwise(const void* rows, void* out, Storage storage, const float* weight, const float* bias,
               int64_t out_rows, int64_t width, int64_t channels) {
  if (storage == Storage::bfloat16) {
    depthwise_silu(static_cast<const Bf16*>(rows), static_cast<Bf16*>(out), weight, bias, out_rows, width, channels);
  } else {
    depthwise_silu(static_cast<const float*>(rows), static_cast<float*>(out), weight, bias, out_rows, width,
                   channels);
  }
}

void silu_any(void* x, Storage storage, int64_t count) {
  if (storage == Storage::bfloat16) {
    silu_in_place(static_cast<Bf16*>(x), count);
  } else {
    silu_in_place(static_cast<float*>(x), count);
  }
}

// Call run(as) with a null pointer of the type that a storage holds.
template <class Run>
void with_storage(Storage storage, Run run) {
  if (storage == Storage::bfloat16) {
    run(static_cast<Bf16*>(nullptr));
  } else {
    run(static_cast<float*>(nullptr));
  }
}

// A pointer of the type of `as`.
template <class X>
const X* typed(const void* pointer, X* /*as*/) { return static_cast<const X*>(pointer); }
template <class X>
X* typed(void* pointer, X* /*as*/) { return static_cast<X*>(pointer); }

void train_norm_any(const void* x, void* out, Storage storage, const float* weight, const float* bias, float eps,
                    float* mean, float* scale, int64_t tokens, int64_t channels) {
  with_storage(storage, [&](auto* as) {
    train_norm(typed(x, as), typed(out, as), weight, bias, eps, {mean, scale}, tokens, channels);
  });
}

void train_norm_gradients_any(const void* x, const void* dy, const void* base, Storage storage, const float* weight,
                              const float* bias, float* mean, float* scale, void* dx, void* normed, float* dweight,
                              float* dbias, int64_t tokens, int64_t channels) {
  with_storage(storage, [&](auto* as) {
    train_norm_gradients(typed(x, as), typed(dy, as), typed(base, as), weight, bias, {mean, scale}, typed(dx, as),
                         typed(normed, as), dweight, dbias, tokens, channels);
  });
}

void stem_any(const float* image, const StemWeights& w, void* out, Storage storage, float* scratch, int64_t height,
              int64_t width) {
  with_storage(storage, [&](auto* as) { stem(image, w, typed(out, as), scratch, height, width); });
}

void stem_gradients_any(const float* image, const StemWeights& w, const void* dy, Storage storage,
                        const StemGradients& grad, float* scratch, int64_t height, int64_t width) {
  with_storage(storage, [&](auto* as) { stem_gradients(image, w, typed(dy, as), grad, scratch, height, width); });
}

void gelu_any(const void* x, void* out, Storage storage, int64_t count) {
  with_storage(storage, [&](auto* as) { gelu(typed(x, as), typed(out, as), count); });
}

void gelu_gradients_any(const void* x, const void* dy, void* dx, void* out, Storage storage, float* sums,
                        int64_t tokens, int64_t channels) {
  with_storage(storage, [&](auto* as) {
    gelu_gradients(typed(x, as), typed(dy, as), typed(dx, as), typed(out, as), sums, tokens, channels);
  });
}

void sum_tokens_any(const void* x, Storage storage, float* sums, int64_t tokens, int64_t channels) {
  with_storage(storage, [&](auto* as) { sum_tokens(typed(x, as), sums, tokens, channels); });
}

// Zeros of floats are zeros of bfloat16 too.
void train_depthwise_any(const void* x, void* out, Storage storage, const float* weight, const float* bias,
                         const float* zeros, int64_t height, int64_t width, int64_t channels) {
  const void* empty = zeros;
  with_storage(storage, [&](auto* as) {
    train_depthwise(typed(x, as), typed(out, as), weight, bias, typed(empty, as), height, width, channels);
  });
}

void train_depthwise_gradients_any(const void* x, const void* dy, void* dx, Storage storage, const float* weight,
                                   const float* bias, float* dweight, float* dbias, const float* zeros, float* inner,
                                   int64_t height, int64_t width, int64_t channels) {
  const void* empty = zeros;
  with_storage(storage, [&](auto* as) {
    train_depthwise_gradients(typed(x, as), typed(dy, as), typed(dx, as), weight, bias, dweight, dbias,
                              typed(empty, as), inner, zeros, height, width, channels);
  });
}

template <void (*Exactly)(Vec*), void (*Roughly)(Vec*)>
void map_floats(const float* x, float* out, int64_t count, bool rough) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t live = count - i < kLanes ? count - i : kLanes;
    Vec value = load_some(x + i, live);
    rough ? Roughly(&value) : Exactly(&value);
    store_some(out + i, value, live);
  }
}

#define VMAMBA_QUOTE(text) #text
#define VMAMBA_NAME(text) VMAMBA_QUOTE(text)

const Kernels table = {VMAMBA_NAME(VMAMBA_ISA),          kLanes,
                       summarize,     summarize_columns,
                       sweep,         combine_block,
                       backward_range, summarize_adjoint_range, backward_scratch_floats,
                       walk_map,      walk_scratch_floats,
                       walk_gradients, walk_gradients_scratch_floats,
                       norm,          depthwise,
                       silu_any,
                       train_norm_any, train_norm_gradients_any,
                       stem_any,      stem_gradients_any, stem_scratch_floats,
                       gelu_any,      gelu_gradients_any,
                       sum_tokens_any,
                       train_depthwise_any, train_depthwise_gradients_any,
                       map_floats<exp2_bounded<1, Exact>, exp2_bounded<1, Rough>>,
                       map_floats<softplus2<1, Exact>, softplus2<1, Rough>>};

}  // namespace

namespace vmamba {
const Kernels* VMAMBA_GETTER(VMAMBA_ISA)() { return &table; }
}  // namespace vmamba
