// What the kernels of inference around the scan offer: plain structs and one table of functions per instruction set.
// See kernels.hpp for what a header of kernels must not contain.
#pragma once

#include "kernels.hpp"

namespace vmamba {

// A layer norm over channels; a null weight stands for none.
struct NormWeights {
  const float *weight, *bias;
  float eps;
};

// A matrix (outputs, inputs), packed by tokens.py: panels of 16 outputs, the last filled up with zeros. float32
// [panel][input][16], or bfloat16 [panel][input / 2][16][2] for tables that take pairs. Maps are then multiplied in
// float32 or in bfloat16 whatever they are kept in. `bias`, of whole blocks too, may be null.
struct Panels {
  const void* weight;
  Storage storage;
  const float* bias;
  int64_t inputs, outputs;
};

// Rows of a map (rows, width, channels) and, in it, the row on which the window of the first row of output is centred.
struct ConvRows {
  const void* x;
  int64_t rows, width, middle;
};

// Rows of a picture (rows, width, 3), of which the first is row `top` of `height`; `fill` is put beside the picture, and
// `centre` taken from each pixel before it is multiplied.
struct PixelRows {
  const uint8_t* pixels;
  int64_t rows, width, top, height;
  const float *fill, *centre;
};

struct TokenKernels {
  const char* name;
  bool pairs;  // whether panels of bfloat16 can be multiplied

  // out (tokens, outputs) = norm(x) W^T + bias, or plus what is there with `add`; the norm of float32 tokens may be
  // multiplied by `gate`. Scratch of all: scratch(...) bytes on a cache line.
  void (*linear)(const void* x, Storage, const float* gate, const NormWeights&, const Panels&, void* out, Storage, bool add,
                 int64_t tokens, void* scratch);
  // x += Wo (norm_o(y) times gate), of float32 y and gate (perhaps null), then x += W2 GELU(W1 norm(x) + b1) + b2; all
  // matrices have one storage.
  void (*rest)(void* x, Storage, const float* y, const float* gate, const NormWeights& out_norm, const Panels& out_proj,
               const NormWeights&, const Panels& first, const Panels& second, int64_t tokens, void* scratch);
  // Convolution 3x3 with stride 2 and zeros around the map, and the norm of its result. Inputs of the matrix are rows of
  // the window, its columns and channels.
  void (*conv)(const ConvRows&, Storage, const Panels&, const NormWeights&, void* out, int64_t out_rows, void* scratch);
  // Two such convolutions with GELU between them, of pixels; rows [first, last) of the result. The first has float32
  // panels.
  void (*stem)(const PixelRows&, const Panels& conv1, const NormWeights& norm1, const Panels& conv2,
               const NormWeights& norm2, void* out, Storage, int64_t first, int64_t last, void* scratch);
  // For matrices of at most so many inputs and outputs; `width` is that of the pixels.
  int64_t (*scratch)(int64_t inputs, int64_t outputs, int64_t width);
  // GELU, for its test: the exact one, or the rough one before bfloat16.
  void (*gelu)(const float* x, float* out, int64_t count, bool rough);
};

const TokenKernels* tokens_amx();
const TokenKernels* tokens_avx512bf16();
const TokenKernels* tokens_avx512();
const TokenKernels* tokens_avx2();
const TokenKernels* tokens_baseline();

}  // namespace vmamba

#define VMAMBA_JOIN_TOKENS(isa) tokens_##isa
#define VMAMBA_TOKENS_GETTER(isa) VMAMBA_JOIN_TOKENS(isa)
