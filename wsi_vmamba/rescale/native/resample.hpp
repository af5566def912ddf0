// What the per-ISA resampling kernels offer. Like everything a kernel file includes, this header must stay free
// of std:: templates and of inline functions with external linkage (see ops/native/kernels.hpp).
#pragma once

#include <cstdint>

namespace vmamba {

// Which source pixels make each target pixel along one axis; the weights are whole numbers.
struct Taps {
  const int64_t* first;  // [count], from the source's first pixel; never falls
  const float* weights;  // [count][width]
  int64_t count;
  int64_t width;
};

struct Resampling {
  const uint8_t* source;  // interleaved RGB
  int64_t source_stride;  // bytes from a row to the next
  uint8_t* out;           // interleaved RGB, rows.count x columns.count pixels
  int64_t out_stride;
  Taps rows;
  Taps columns;
  float row_scale;     // a power of two: turns sums of the first pass into what is kept between the passes
  float column_scale;  // and sums of the second pass into grey levels
};

struct Resampler {
  const char* name;
  int64_t (*scratch_floats)(const Resampling&);
  void (*run)(const Resampling&, float* scratch);  // scratch: zeros, on a cache line boundary
};

// One per compiled instruction set; a null pointer where it was not compiled in.
const Resampler* resampler_avx512();
const Resampler* resampler_avx2();
const Resampler* resampler_baseline();

}  // namespace vmamba

// resampler_avx2 from avx2, also where avx2 is itself a macro.
#define VMAMBA_JOIN_RESAMPLER(isa) resampler_##isa
#define VMAMBA_RESAMPLER(isa) VMAMBA_JOIN_RESAMPLER(isa)
