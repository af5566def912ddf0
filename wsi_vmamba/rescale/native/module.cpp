// The Python module `_cubic`: checks of dtype, layout and range, choice of instruction set, scratch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.hpp"
#include "resample.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace vmamba;

namespace {

using Source = nb::ndarray<const uint8_t, nb::ndim<3>, nb::device::cpu>;
using Target = nb::ndarray<uint8_t, nb::ndim<3>, nb::device::cpu>;
using First = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const std::vector<const Resampler*>& compiled_resamplers() {
  static const auto usable =
      usable_tables<Resampler>({resampler_avx512(), resampler_avx2(), resampler_baseline()});
  return usable;
}

template <class Pixels>
void require_pixels(const Pixels& pixels, const std::string& name) {
  // Strides along an axis of at most one pixel mean nothing.
  const bool dense = pixels.size() == 0 || (pixels.stride(2) == 1 && (pixels.shape(1) < 2 || pixels.stride(1) == 3));
  if (pixels.shape(2) != 3 || !dense) {
    throw std::invalid_argument(name + " must have shape (rows, columns, 3) with whole pixels side by side");
  }
}

// Every pixel the kernel will read lies below `extent`.
Taps taps_of(const First& first, const Weights& weights, int64_t count, int64_t extent, const std::string& axis) {
  const Taps taps = {first.data(), weights.data(), static_cast<int64_t>(first.shape(0)),
                     static_cast<int64_t>(weights.shape(1))};
  if (taps.count < 1 || taps.count != count || static_cast<int64_t>(weights.shape(0)) != count) {
    throw std::invalid_argument(axis + ": first, weights and out must agree on the number of target pixels, at least " +
                                "1; got " + std::to_string(first.shape(0)) + ", " + std::to_string(weights.shape(0)) +
                                " and " + std::to_string(count));
  }
  const std::string extents =
      std::to_string(taps.width) + " taps over " + std::to_string(extent) + " source pixels";
  if (taps.width < 1 || taps.width > extent) throw std::invalid_argument(axis + ": " + extents);
  int64_t least = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (taps.first[i] < least || taps.first[i] > extent - taps.width) {
      throw std::invalid_argument(axis + ": first must not fall and stay within the source; first[" +
                                  std::to_string(i) + "] is " + std::to_string(taps.first[i]) + ", " + extents);
    }
    least = taps.first[i];
  }
  return taps;
}

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

// Zeros on a cache line boundary.
std::unique_ptr<float[], Free> scratch_floats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  auto* memory = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return std::unique_ptr<float[], Free>(memory);
}

void resample(const Source& source, const First& row_first, const Weights& row_weights, const First& column_first,
              const Weights& column_weights, const Target& out, int row_shift, int column_shift,
              const std::string& isa) {
  const Resampler& resampler = choose_table(compiled_resamplers(), isa);
  require_pixels(source, "source");
  require_pixels(out, "out");
  const auto rows = static_cast<int64_t>(out.shape(0)), columns = static_cast<int64_t>(out.shape(1));
  Resampling job{};
  job.rows = taps_of(row_first, row_weights, rows, static_cast<int64_t>(source.shape(0)), "rows");
  job.columns = taps_of(column_first, column_weights, columns, static_cast<int64_t>(source.shape(1)), "columns");
  job.source = source.data();
  job.source_stride = source.stride(0);
  job.out = out.data();
  job.out_stride = out.stride(0);
  job.row_scale = std::ldexp(1.0f, -row_shift);
  job.column_scale = std::ldexp(1.0f, -column_shift);
  const auto scratch = scratch_floats(resampler.scratch_floats(job));
  resampler.run(job, scratch.get());
}

}  // namespace

NB_MODULE(_cubic, m) {
  m.doc() = "The exact cubic of wsi_vmamba.rescale in C++; call it through wsi_vmamba.rescale.compiled.";
  m.def("instruction_sets", [] { return table_names(compiled_resamplers()); },
        "Instruction sets compiled in and offered here, best first.");
  m.def("resample", &resample, "source"_a.noconvert(), "row_first"_a.noconvert(), "row_weights"_a.noconvert(),
        "column_first"_a.noconvert(), "column_weights"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(),
        "row_shift"_a, "column_shift"_a, "isa"_a = "", nb::call_guard<nb::gil_scoped_release>(),
        "Fill out, uint8 (rows, columns, 3), from source, uint8 (h, w, 3). Weights are whole numbers in float32,\n"
        "(rows or columns, taps), firsts int64; sums of a pass are divided by 2**shift and rounded half to even.");
}
