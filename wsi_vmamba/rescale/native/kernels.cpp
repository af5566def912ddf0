// The two passes of the exact cubic for one instruction set; the build compiles this file once for each.
//
// kLanes target rows are made at a time. The first pass runs along source rows, lanes being columns; its result
// is transposed, so that in the second pass lanes are target rows and every weight is one number for all of them.
// All sums are of whole numbers below 2^24: exact in float32, in any order, with or without fused multiply-adds.
#include "resample.hpp"
#include "simd.hpp"

namespace {

using vmamba::Resampling;
using vmamba::Taps;

constexpr int kStrip = 64;       // colours of source columns in the first pass at a time
constexpr int kPixels = 16;      // target columns in the second pass at a time
constexpr int kUnits = 3 * kPixels;
static_assert(kStrip % (4 * kLanes) == 0 && kUnits % kLanes == 0, "whole vectors");

// Adding 1.5 * 2^23 and taking it off again rounds to an integer, half to even.
constexpr float kRound = 12582912.0f;

#if VMAMBA_LANES == 16
#define VMAMBA_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VMAMBA_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VMAMBA_LANES == 8
#define VMAMBA_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define VMAMBA_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define VMAMBA_LOW 0, 4, 1, 5
#define VMAMBA_HIGH 2, 6, 3, 7
#endif
#if defined(__clang__)
#define VMAMBA_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VMAMBA_PICK(a, b, ...) __builtin_shuffle(a, b, VecI{__VA_ARGS__})
#endif

// Transpose kLanes x kLanes floats. Each turn rotates the bits of (row, column) by one.
VMAMBA_INLINE void transpose(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
  Vec a[kLanes], b[kLanes];
  VMAMBA_UNROLL
  for (int i = 0; i < kLanes; ++i) a[i] = load(from + i * from_pitch);
  VMAMBA_UNROLL
  for (int turn = 1; turn < kLanes; turn *= 2) {
    VMAMBA_UNROLL
    for (int i = 0; i < kLanes / 2; ++i) {
      b[2 * i] = VMAMBA_PICK(a[i], a[i + kLanes / 2], VMAMBA_LOW);
      b[2 * i + 1] = VMAMBA_PICK(a[i], a[i + kLanes / 2], VMAMBA_HIGH);
    }
    VMAMBA_UNROLL
    for (int i = 0; i < kLanes; ++i) a[i] = b[i];
  }
  VMAMBA_UNROLL
  for (int i = 0; i < kLanes; ++i) store(to + i * to_pitch, a[i]);
}

// Source columns that the first `count` target columns need, times three colours.
int64_t needed_colours(const Taps& columns, int64_t count) {
  return 3 * (columns.first[count - 1] + columns.width - columns.first[0]);
}

int64_t padded_colours(const Taps& columns) {
  return (needed_colours(columns, columns.count) + kStrip - 1) / kStrip * kStrip;
}

// Source rows that any kLanes neighbouring target rows need, at most.
int64_t most_rows(const Taps& rows) {
  int64_t most = 0;
  for (int64_t at = 0; at < rows.count; at += kLanes) {
    const int64_t last = (at + kLanes < rows.count ? at + kLanes : rows.count) - 1;
    const int64_t span = rows.first[last] + rows.width - rows.first[at];
    most = span > most ? span : most;
  }
  return most;
}

int64_t scratch_floats(const Resampling& job) {
  return most_rows(job.rows) * kStrip + kLanes * (kStrip + padded_colours(job.columns) + 2 * kUnits);
}

// Where the parts of the scratch lie.
struct Scratch {
  float* window;    // [source rows][kStrip]
  float* sums;      // [kLanes][kStrip]
  float* turned;    // [padded colours][kLanes], between the passes
  float* mixed;     // [kUnits][kLanes]
  float* straight;  // [kLanes][kUnits]

  Scratch(const Resampling& job, float* memory)
      : window(memory),
        sums(window + most_rows(job.rows) * kStrip),
        turned(sums + kLanes * kStrip),
        mixed(turned + kLanes * padded_colours(job.columns)),
        straight(mixed + kLanes * kUnits) {}
};

VMAMBA_INLINE void widen(const uint8_t* __restrict from, int64_t count, float* __restrict to) {
  uint8_t padded[kStrip];
  if (count < kStrip) {
    memset(padded, 0, sizeof padded);
    memcpy(padded, from, static_cast<size_t>(count));
    from = padded;
  }
  for (int i = 0; i < kStrip; ++i) to[i] = static_cast<float>(from[i]);
}

// One target row of the first pass over one strip.
VMAMBA_INLINE void mix_rows(const float* window, const float* weights, int64_t taps, float scale, float* sums) {
  VMAMBA_UNROLL
  for (int part = 0; part < kStrip; part += 4 * kLanes) {
    Vec sum[4] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const float weight = weights[tap];
      VMAMBA_UNROLL
      for (int v = 0; v < 4; ++v) sum[v] += load(window + tap * kStrip + part + v * kLanes) * weight;
    }
    VMAMBA_UNROLL
    for (int v = 0; v < 4; ++v) store(sums + part + v * kLanes, (sum[v] * scale + kRound) - kRound);
  }
}

// Target rows [at, at + live), at most kLanes of them.
struct Band {
  int64_t at, live;
};

// First pass of a band over the strip of source colours from `x` on, counted from the first one needed; afterwards
// scratch.turned holds the band's rows in its lanes.
void down(const Resampling& job, const Scratch& scratch, const Band& band, int64_t x, int64_t colours) {
  const Taps& rows = job.rows;
  const int64_t top = rows.first[band.at], bottom = rows.first[band.at + band.live - 1] + rows.width;
  const int64_t count = colours - x < kStrip ? colours - x : kStrip;
  for (int64_t y = top; y < bottom; ++y) {
    const uint8_t* row = job.source + y * job.source_stride + 3 * job.columns.first[0] + x;
    widen(row, count, scratch.window + (y - top) * kStrip);
    // Too many rows at once for the machine to foresee: a later strip is fetched while this one is mixed.
    if (x + 2 * kStrip < colours) __builtin_prefetch(row + 2 * kStrip);
  }
  for (int64_t r = 0; r < band.live; ++r) {
    mix_rows(scratch.window + (rows.first[band.at + r] - top) * kStrip, rows.weights + (band.at + r) * rows.width,
             rows.width, job.row_scale, scratch.sums + r * kStrip);
  }
  for (int part = 0; part < kStrip; part += kLanes) {
    transpose(scratch.sums + part, kStrip, scratch.turned + (x + part) * kLanes, kLanes);
  }
}

VMAMBA_INLINE void to_bytes(const float* __restrict from, float scale, uint8_t* __restrict to) {
  for (int i = 0; i < kUnits; ++i) {
    const auto level = static_cast<int32_t>((from[i] * scale + kRound) - kRound);
    to[i] = static_cast<uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
  }
}

// Second pass of a band for `pixels` target columns from `x` on, at most kPixels.
void along(const Resampling& job, const Scratch& scratch, const Band& band, int64_t x, int64_t pixels) {
  const Taps& columns = job.columns;
  for (int64_t p = 0; p < pixels; ++p) {
    const float* weights = columns.weights + (x + p) * columns.width;
    const float* from = scratch.turned + 3 * kLanes * (columns.first[x + p] - columns.first[0]);
    Vec sum[3] = {};
    for (int64_t tap = 0; tap < columns.width; ++tap, from += 3 * kLanes) {
      VMAMBA_UNROLL
      for (int c = 0; c < 3; ++c) sum[c] += load(from + c * kLanes) * weights[tap];
    }
    VMAMBA_UNROLL
    for (int c = 0; c < 3; ++c) store(scratch.mixed + (3 * p + c) * kLanes, sum[c]);
  }
  for (int part = 0; part < kUnits; part += kLanes) {
    transpose(scratch.mixed + part * kLanes, kLanes, scratch.straight + part, kUnits);
  }
  for (int64_t r = 0; r < band.live; ++r) {
    uint8_t* target = job.out + (band.at + r) * job.out_stride + 3 * x;
    if (pixels == kPixels) {
      to_bytes(scratch.straight + r * kUnits, job.column_scale, target);
    } else {
      uint8_t bytes[kUnits];
      to_bytes(scratch.straight + r * kUnits, job.column_scale, bytes);
      memcpy(target, bytes, static_cast<size_t>(3 * pixels));
    }
  }
}

// Both passes of a band; the second follows close behind the first, so that what lies between stays in the cache.
void run_band(const Resampling& job, const Scratch& scratch, const Band& band) {
  const Taps& columns = job.columns;
  const int64_t colours = needed_colours(columns, columns.count);
  for (int64_t x = 0; x < colours; x += kStrip) down(job, scratch, band, x, colours);
  for (int64_t x = 0; x < columns.count; x += kPixels) {
    along(job, scratch, band, x, columns.count - x < kPixels ? columns.count - x : kPixels);
  }
}

void run(const Resampling& job, float* memory) {
  const Scratch scratch(job, memory);
  for (int64_t at = 0; at < job.rows.count; at += kLanes) {
    const int64_t left = job.rows.count - at;
    run_band(job, scratch, Band{at, left < kLanes ? left : kLanes});
  }
}

#define VMAMBA_QUOTE(text) #text
#define VMAMBA_NAME(text) VMAMBA_QUOTE(text)

const vmamba::Resampler table = {VMAMBA_NAME(VMAMBA_ISA), scratch_floats, run};

}  // namespace

namespace vmamba {
const Resampler* VMAMBA_RESAMPLER(VMAMBA_ISA)() { return &table; }
}  // namespace vmamba
