// What the per-ISA kernels offer: plain structs and one table of functions per instruction set.
//
// The kernels are compiled once per instruction set from the same source, so this header and everything a
// kernel file includes must stay free of std:: templates and of inline functions with external linkage: the
// linker could keep the AVX-512 copy of such a function and call it on a machine without AVX-512.
#pragma once

#include <cstdint>

namespace vmamba {

// Channels are padded to a multiple of this; packed weights come in blocks of this many channels.
constexpr int kBlock = 16;

// Storage of an activation: float32, or bfloat16 (the upper half of a float32).
enum class Storage { float32, bfloat16 };

// Parameters of the four scans of one SS2D layer, packed by cpu.py. Everything is in base 2 (see README.md):
// weight and bias carry a factor log2(e), so that softplus and exp become log2(1 + 2^z) and 2^t.
struct ScanWeights {
  const float* weight;  // [4][padded / 16][rank][16]
  const float* bias;    // [4][padded]
  const float* rate;    // [4][state][padded], A = -exp(A_logs)
  const float* skip;    // [padded], sum of the four D
  int64_t channels;     // real channels
  int64_t padded;       // channels rounded up to a multiple of kBlock
  int64_t rank;
  int64_t state;
};

// Some consecutive rows of a map, channels last, and the projections of their tokens.
struct Strip {
  const void* u;  // [rows][width][channels]
  Storage storage;
  const float* proj;  // [rows][width][4][rank + 2 state]: dt_r | B | C
  int64_t rows;
  int64_t width;
};

// One direction's transition through a strip: state_out = decay * state_in + state, laid out as
// [padded / 16][state][width][16]. Rows of the map have one transition per strip (width 1), columns one each.
struct Transition {
  float* decay;
  float* state;
};

// Transitions (or, when applying, only the entering states) of the four directions of one strip.
struct Carry {
  Transition row_forward, row_backward, column_forward, column_backward;
};

// What crosses the edges of a strip in one direction: the state that enters each chain of its tokens (divided by ln 2, as
// states are) and the derivative of the loss by the state that leaves it, laid out as a Transition is. The rows of a
// strip are one chain, its columns one each.
struct Border {
  const float* entering;
  const float* leaving_grad;
};

// Gradients that the backward pass writes, for one image and one range of channels.
struct Gradients {
  float* u;       // [L][channels]
  float* proj;    // [L][4][rank + 2 state], the share of this range of channels
  float* weight;  // [4][padded / 16][rank][16], natural units: d loss / d dt_weight
  float* bias;    // [4][padded]
  float* rate;    // [4][state][padded]
  float* skip;    // [padded]
};

// One walk over rows [first_row, last_row) of a strip, in the two directions of one sense.
struct Sweep {
  bool downward;  // rows and columns in their forward directions; else from the last row up
  bool add;       // add to y; else write it, the skip included
  int64_t first_row, last_row;
};

// One small map of one state per channel, for the walks token by token.
struct WalkedMap {
  const void* u;  // [tokens][channels]
  Storage storage;
  const void* proj;  // [tokens][4][rank + 2]: dt_r | B | C
  Storage proj_storage;
  int64_t tokens;
};

// Gradients of such a map: those of u and proj are written in the storage of u and proj, the others are added to.
struct WalkedGradients {
  void* u;
  void* proj;
  float* weight;  // [4][padded / 16][rank][16], natural units
  float* bias;    // [4][padded]
  float* rate;    // [4][padded]
  float* skip;    // [padded]
};

// The first half of the stem: taps (27, channels), over colours, rows and columns, bias, and those of the norm.
struct StemWeights {
  const float *taps, *bias, *norm_weight, *norm_bias;
  float eps;
  int64_t channels;
};

// Their gradients, which are added to.
struct StemGradients {
  float *taps, *bias, *norm_weight, *norm_bias;
};

struct Kernels {
  const char* name;
  int lanes;

  // Set (fresh) or continue (not fresh) the forward transitions and set the backward transitions of a strip.
  // `row_forward` and `row_backward` say whether those transitions are wanted: nobody needs what leaves the map.
  void (*summarize)(const ScanWeights&, const Strip&, const Carry&, bool fresh, bool row_forward,
                    bool row_backward, int64_t first, int64_t last);
  // The same for columns [begin, end) of the strip alone, without the rows.
  void (*summarize_columns)(const ScanWeights&, const Strip&, const Carry&, bool fresh, int64_t begin, int64_t end,
                            int64_t first, int64_t last);
  // Scan rows of a strip in two directions from the entering states in `carry`, which become the leaving states.
  void (*sweep)(const ScanWeights&, const Strip&, const Carry&, const Sweep&, float* y, int64_t first, int64_t last);
  // Turn the transitions of one direction into entering states, for one block of channels and one n: (slots,
  // width, 16) with slots `pitch` floats apart. `entry` is scratch, 2 * width * 16 floats.
  void (*combine)(const float* decay, float* state, int64_t slots, int64_t pitch, int64_t width, bool backward,
                  float* entry);

  // Gradients for channels [first, last) of one image, or of a strip with the borders of its four directions (null for
  // an image); `u` and `grad_y` are float32. `scratch` holds backward_scratch(...) floats.
  void (*backward)(const ScanWeights&, const Strip&, const float* grad_y, const Border* borders, const Gradients&,
                   float* scratch, int64_t first, int64_t last);
  // What a strip does to the derivative of the loss by the state that leaves it, in the four directions: the one by
  // the state that enters is decay times that, plus state. The same scratch; u is not looked at.
  void (*summarize_adjoint)(const ScanWeights&, const Strip&, const float* grad_y, const Transition* into,
                            float* scratch, int64_t first, int64_t last);
  int64_t (*backward_scratch)(const ScanWeights&, int64_t rows, int64_t width, int64_t first, int64_t last);

  // The scan of a small map with one state, and its gradients. `walks` holds the tokens of the four directions in the
  // order of the walk; y and dy have the storage of u. `scratch` holds walk(_gradients)_scratch(...) floats.
  void (*walk)(const ScanWeights&, const WalkedMap&, const int32_t* walks, void* y, float* scratch);
  int64_t (*walk_scratch)(const ScanWeights&, int64_t tokens);
  void (*walk_gradients)(const ScanWeights&, const WalkedMap&, const int32_t* walks, const void* dy,
                         const WalkedGradients&, float* scratch);
  int64_t (*walk_gradients_scratch)(const ScanWeights&, int64_t tokens);

  void (*layer_norm)(const void* x, Storage, void* out, Storage, const void* gate, const float* weight,
                     const float* bias, float eps, int64_t tokens, int64_t channels);
  void (*depthwise_silu)(const void* rows, void* out, Storage, const float* weight, const float* bias,
                         int64_t out_rows, int64_t width, int64_t channels);
  void (*silu)(void* x, Storage, int64_t count);

  // Training, see train.hpp: channels are whole blocks, all maps of a call have one storage; dweight, dbias and sums are
  // added to. mean and scale are those of each token, written by the norm and read by its gradient. `zeros` is a row of
  // zeros, `inner` one image of floats.
  void (*train_norm)(const void* x, void* out, Storage, const float* weight, const float* bias, float eps, float* mean,
                     float* scale, int64_t tokens, int64_t channels);
  void (*train_norm_gradients)(const void* x, const void* dy, const void* base, Storage, const float* weight,
                               const float* bias, float* mean, float* scale, void* dx, void* normed, float* dweight,
                               float* dbias, int64_t tokens, int64_t channels);
  // Convolution 3x3 with stride 2 of an image (3, height, width), norm and GELU, see stem.hpp. `scratch` holds
  // stem_scratch(...) floats.
  void (*stem)(const float* image, const StemWeights&, void* out, Storage, float* scratch, int64_t height,
               int64_t width);
  void (*stem_gradients)(const float* image, const StemWeights&, const void* dy, Storage, const StemGradients&,
                         float* scratch, int64_t height, int64_t width);
  int64_t (*stem_scratch)(int64_t height, int64_t width, int64_t channels);
  void (*gelu)(const void* x, void* out, Storage, int64_t count);
  void (*gelu_gradients)(const void* x, const void* dy, void* dx, void* out, Storage, float* sums, int64_t tokens,
                         int64_t channels);
  void (*sum_tokens)(const void* x, Storage, float* sums, int64_t tokens, int64_t channels);
  void (*train_depthwise)(const void* x, void* out, Storage, const float* weight, const float* bias,
                          const float* zeros, int64_t height, int64_t width, int64_t channels);
  void (*train_depthwise_gradients)(const void* x, const void* dy, void* dx, Storage, const float* weight,
                                    const float* bias, float* dweight, float* dbias, const float* zeros, float* inner,
                                    int64_t height, int64_t width, int64_t channels);

  // The two functions of the scan, exposed for their tests: 2^x for x <= 126 and log2(1 + 2^x), exact or as they are for
  // maps kept in bfloat16.
  void (*exp2)(const float* x, float* out, int64_t count, bool rough);
  void (*softplus2)(const float* x, float* out, int64_t count, bool rough);
};

// One table per compiled instruction set; a null pointer where it was not compiled in.
const Kernels* kernels_avx512bf16();
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_baseline();

}  // namespace vmamba

// kernels_avx2 from avx2, also where avx2 is itself a macro.
#define VMAMBA_JOIN(isa) kernels_##isa
#define VMAMBA_GETTER(isa) VMAMBA_JOIN(isa)
