// What the files of the Python module `_cpu` share: arrays and their checks, choice of instruction set, scratch, threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "isa.hpp"
#include "kernels.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace vmamba;

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
// An activation: float32, or bfloat16 passed as its bits (int16).
using Activation = nb::ndarray<nb::c_contig, nb::device::cpu>;
using ConstActivation = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Release = nb::call_guard<nb::gil_scoped_release>;

inline std::atomic<bool> poison_scratch{false};

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class Array>
void require_size(const Array& array, int64_t expected, const char* name) {
  require(static_cast<int64_t>(array.size()) == expected, std::string(name) + " has " +
                                                              std::to_string(array.size()) + " elements, expected " +
                                                              std::to_string(expected));
}

template <class Array>
Storage storage_of(const Array& array, const char* name) {
  if (array.dtype() == nb::dtype<float>()) return Storage::float32;
  require(array.dtype() == nb::dtype<int16_t>(), std::string(name) + " must be float32, or bfloat16 viewed as int16");
  return Storage::bfloat16;
}

// Where an array lies.
template <class Array>
std::pair<const char*, const char*> span_of(const Array& array) {
  const char* first = static_cast<const char*>(static_cast<const void*>(array.data()));
  return {first, first + array.nbytes()};
}

template <class A, class B>
void require_apart(const A& a, const B& b, const char* message) {
  const auto one = span_of(a), other = span_of(b);
  require(one.second <= other.first || other.second <= one.first, message);
}

// ---- instruction sets ------------------------------------------------------------------------------------

inline const std::vector<const Kernels*>& compiled_kernels() {
  static const auto usable = usable_tables<Kernels>(
      {kernels_avx512bf16(), kernels_avx512(), kernels_avx2(), kernels_baseline()});
  return usable;
}

inline const Kernels& choose(const std::string& isa) { return choose_table(compiled_kernels(), isa); }

inline std::vector<std::string> instruction_sets() { return table_names(compiled_kernels()); }

// ---- scratch and threads -----------------------------------------------------------------------------------

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

// Uninitialised memory on a cache line boundary; NaN everywhere when a test asks for it.
inline std::unique_ptr<float[], Free> scratch_floats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float) + 63) / 64 * 64;
  auto* memory = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  if (poison_scratch) std::fill_n(memory, bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  return std::unique_ptr<float[], Free>(memory);
}

// Results below 1e-38 become zero while this lives: decays underflow by design, and denormals are slow.
class FlushDenormals {
#if defined(__x86_64__)
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
#else
 public:
  FlushDenormals() {}
#endif
};

// Run job(0) .. job(count - 1) on up to `threads` threads, the caller's among them. The first exception wins.
template <class Job>
void parallel_for(int64_t count, int64_t threads, const Job& job) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&] {
    const FlushDenormals guard;
    try {
      for (int64_t i; (i = next.fetch_add(1)) < count;) job(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_lock);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min(threads, count); ++t) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

// In train_module.cpp and tokens_module.cpp.
void add_training(nb::module_& m);
void add_tokens(nb::module_& m);
