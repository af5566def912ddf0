// The operators of inference around the scan for one instruction set: norm and matrix, the end of a block, stem and
// downsampling. A few tokens at a time go through an operator, so that what lies between its steps stays in the cache.
#include "finish.hpp"

namespace {

using vmamba::ConvRows;
using vmamba::NormWeights;
using vmamba::Panels;
using vmamba::PixelRows;
using vmamba::Storage;
using vmamba::TokenKernels;

template <class Pointer>
struct Pointed;
template <class X>
struct Pointed<X*> {
  typedef X type;
};
template <class Pointer>
using pointed_type = typename Pointed<Pointer>::type;

constexpr int64_t kSpareBytes = 64;  // between rows, lest they share places of the cache

template <class A>
constexpr int64_t pitch_of(int64_t length) {
  return (length + kBlock - 1) / kBlock * kBlock + kSpareBytes / static_cast<int64_t>(sizeof(A));
}

// Hands out memory, cache line by cache line.
class Room {
 public:
  explicit Room(void* base) : next_(static_cast<char*>(base)) {}
  template <class A>
  A* take(int64_t count) {
    auto* place = reinterpret_cast<A*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(A)) + 63) / 64 * 64;
    return place;
  }
  int64_t taken(const void* base) const { return next_ - static_cast<const char*>(base); }

 private:
  char* next_;
};

// ---- steps ---------------------------------------------------------------------------------------------------------

// Tokens whose norm is found together: as many as the first-level cache holds beside what they become, whole groups.
VMAMBA_INLINE int64_t norm_group(int64_t channels) {
  constexpr int64_t kFloats = 4096;
  const int64_t fitting = kFloats / channels / kLanes * kLanes;
  return fitting < kLanes ? kLanes : fitting < kTogether ? fitting : kTogether;
}

// out = norm(x), times gate if given; tokens of x and out lie `pitch` and `out_pitch` apart, those of the gate side by side.
// Each step is done for a group of tokens, so that none waits for its own sums.
template <class X, class Y>
void norm_tokens(const X* x, int64_t pitch, const NormWeights& norm, const float* gate, Y* out, int64_t out_pitch,
                 int64_t tokens, int64_t channels) {
  float mean[kTogether], scale[kTogether];
  const int64_t group = norm_group(channels);
  for (int64_t begin = 0; begin < tokens; begin += group) {
    const int64_t count = begin + group < tokens ? group : tokens - begin;
    token_statistics(x + begin * pitch, count, pitch, channels, norm.eps, mean, scale);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Vec weight = load(norm.weight + c), bias = load(norm.bias + c);
      for (int64_t i = 0; i < count; ++i) {
        Vec value = (load(x + (begin + i) * pitch + c) - mean[i]) * scale[i] * weight + bias;
        if (gate != nullptr) value *= load(gate + (begin + i) * channels + c);
        store(out + (begin + i) * out_pitch + c, value);
      }
    }
  }
}

template <class X, class Y>
void copy_numbers(const X* x, Y* out, int64_t count) {
  for (int64_t c = 0; c < count; c += kLanes) store(out + c, load(x + c));
}

// out = GELU(x), `out` without gaps. Whole groups of four vectors are read and written.
template <class Y>
void gelu_tokens(const float* x, int64_t pitch, Y* out, int64_t tokens, int64_t channels) {
  constexpr int together = 4;  // a block is four vectors of 4, two of 8 or one of 16: then four tokens
  constexpr int across = kBlock / kLanes < together ? kBlock / kLanes : together, down = together / across;
  for (int64_t t = 0; t < tokens; t += down) {
    for (int64_t c = 0; c < channels; c += across * kLanes) {
      Vec value[together];
      lockstep<together>([&](int i) { value[i] = load(x + (t + i / across) * pitch + c + i % across * kLanes); });
      gelu_vectors<Y, together>(value);
      lockstep<together>([&](int i) { store(out + (t + i / across) * channels + c + i % across * kLanes, value[i]); });
    }
  }
}

// ---- operators -----------------------------------------------------------------------------------------------------

// Norm and product of at most kTogether tokens, whose norm takes `space`.
template <class A, class X, class Finish>
VMAMBA_INLINE void normed_product(const X* x, const float* gate, const NormWeights& norm, const Matrix<A>& w, int64_t tokens,
                                  A* space, Finish finish) {
  const int64_t pitch = pitch_of<A>(w.inputs);
  norm_tokens(x, w.inputs, norm, gate, space, pitch, tokens, w.inputs);
  multiply({{space}, 1, w.inputs, pitch}, w, tokens, finish);
}

// The product of at most kTogether tokens as they are: where they lie, or copied, where they are kept otherwise or fill no
// tile, since whole tiles are read.
template <class A, class X, class Finish>
VMAMBA_INLINE void plain_product(const X* x, const Matrix<A>& w, int64_t tokens, A* space, Finish finish) {
  if constexpr (sizeof(A) == sizeof(X)) {
    if (tokens == kTogether) return multiply({{x}, 1, w.inputs, w.inputs}, w, tokens, finish);
  }
  const int64_t pitch = pitch_of<A>(w.inputs);
  for (int64_t t = 0; t < tokens; ++t) copy_numbers(x + t * w.inputs, space + t * pitch, w.inputs);
  multiply({{space}, 1, w.inputs, pitch}, w, tokens, finish);
}

template <class A, class X, class Finish>
VMAMBA_INLINE void product(const X* x, const float* gate, const NormWeights& norm, const Matrix<A>& w, int64_t tokens,
                           A* space, Finish finish) {
  if (norm.weight != nullptr) {
    normed_product(x, gate, norm, w, tokens, space, finish);
  } else {
    plain_product(x, w, tokens, space, finish);
  }
}

// Calls step(first token, how many) for kTogether tokens at a time.
template <class Step>
VMAMBA_INLINE void each_group(int64_t tokens, Step step) {
  for (int64_t begin = 0; begin < tokens; begin += kTogether) {
    step(begin, begin + kTogether < tokens ? kTogether : tokens - begin);
  }
}

// Ask for the next kTogether tokens before a short product. Beyond the end of an array it is harmless.
template <class X>
VMAMBA_INLINE void prefetch_group(const X* next, int64_t channels) {
  const char* from = reinterpret_cast<const char*>(next);
  const int64_t bytes = kTogether * channels * static_cast<int64_t>(sizeof(X));
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

template <class A, class X, class Y>
void linear_tokens(const X* x, const float* gate, const NormWeights& norm, const Panels& panels, Y* out, bool add,
                   int64_t tokens, void* scratch) {
  const Matrix<A> w(panels);
  A* space = Room(scratch).take<A>(kTogether * pitch_of<A>(w.inputs));
  each_group(tokens, [&](int64_t begin, int64_t count) {
    const X* from = x + begin * w.inputs;
    const float* factor = gate == nullptr ? gate : gate + begin * w.inputs;
    Y* to = out + begin * w.outputs;
    prefetch_group(from + kTogether * w.inputs, w.inputs);
    if (add) {
      prefetch_group(to + kTogether * w.outputs, w.outputs);
      product(from, factor, norm, w, count, space, Put<true, Y>{to, w.outputs, w.outputs});
    } else {
      product(from, factor, norm, w, count, space, Put<false, Y>{to, w.outputs, w.outputs});
    }
  });
}

// The end of a block, see tokens.hpp. While a few tokens go through the MLP, the next come from memory.
template <class A, class X>
void rest_tokens(X* x, const float* y, const float* gate, const NormWeights& out_norm, const Panels& out_panels,
                 const NormWeights& norm, const Panels& first_panels, const Panels& second_panels, int64_t tokens,
                 void* scratch) {
  const Matrix<A> out_proj(out_panels), first(first_panels), second(second_panels);
  const int64_t inner = out_proj.inputs, channels = first.inputs, hidden = first.outputs, wide = pitch_of<A>(hidden);
  Room room(scratch);
  A* space = room.take<A>(kTogether * pitch_of<A>(inner > channels ? inner : channels));
  A* h = room.take<A>(kTogether * wide);
  each_group(tokens, [&](int64_t begin, int64_t count) {
    X* here = x + begin * channels;
    const float *from = y + begin * inner, *factor = gate == nullptr ? gate : gate + begin * inner;
    const Put<true, X> add{here, channels, channels};
    normed_product(from, factor, out_norm, out_proj, count, space, add);
    const Ahead residual(here + kTogether * channels, channels, hidden), scanned(from + kTogether * inner, inner, hidden);
    normed_product(here, nullptr, norm, first, count, space, PutGelu<A>{h, wide, residual, scanned});
    multiply({{h}, 1, hidden, wide}, second, count, add);
  });
}

VMAMBA_INLINE int64_t halved_side(int64_t side) { return (side + 1) / 2; }

// Columns of a map that kTogether windows with stride 2 see.
constexpr int64_t kWindowColumns = 2 * kTogether + 1;

template <class A, class X>
void conv_tokens(const ConvRows& map, const Panels& panels, const NormWeights& norm, X* out, int64_t out_rows, void* scratch) {
  const Matrix<A> w(panels);
  const int64_t channels = w.inputs / 9, row = kWindowColumns * channels, sums_pitch = pitch_of<float>(w.outputs);
  const auto* x = static_cast<const X*>(map.x);
  Room room(scratch);
  A* seen = room.take<A>(3 * row);
  float* sums = room.take<float>(kTogether * sums_pitch);
  const int64_t width = halved_side(map.width);
  for (int64_t i = 0; i < out_rows; ++i) {
    for (int64_t begin = 0; begin < width; begin += kTogether) {
      const int64_t count = begin + kTogether < width ? kTogether : width - begin;
      // Columns [left, right) of the map; there may be one less at either end.
      const int64_t left = 2 * begin - 1, right = left + 2 * count + 1;
      const int64_t first = left < 0 ? 0 : left, last = right < map.width ? right : map.width;
      for (int64_t q = 0; q < 3; ++q) {
        const int64_t from = map.middle + 2 * i + q - 1;
        A* to = seen + q * row;
        if (from < 0 || from >= map.rows) {
          memset(to, 0, sizeof(A) * static_cast<size_t>((right - left) * channels));
          continue;
        }
        memset(to, 0, sizeof(A) * static_cast<size_t>((first - left) * channels));
        copy_numbers(x + (from * map.width + first) * channels, to + (first - left) * channels, (last - first) * channels);
        memset(to + (last - left) * channels, 0, sizeof(A) * static_cast<size_t>((right - last) * channels));
      }
      multiply({{seen, seen + row, seen + 2 * row}, 3, 3 * channels, 2 * channels}, w, count,
               Put<false, float>{sums, sums_pitch, w.outputs});
      norm_tokens(sums, sums_pitch, norm, nullptr, out + (i * width + begin) * w.outputs, w.outputs, count, w.outputs);
    }
  }
}

// Pixels of a row of a picture as float32 less the centre, with one pixel of `fill` on the left and two on the right;
// `centres` has the centre of each number of a row.
void pixel_row(const PixelRows& picture, int64_t number, const float* centres, float* out) {
  const int64_t at = number - picture.top, numbers = 3 * picture.width;
  const bool inside = number >= 0 && number < picture.height && at >= 0 && at < picture.rows;
  const auto fill = [&](float* to) { memcpy(to, picture.fill, 3 * sizeof(float)); };
  fill(out);
  if (inside) {
    const uint8_t* pixels = picture.pixels + at * numbers;
    for (int64_t i = 0; i < numbers; ++i) out[3 + i] = static_cast<float>(pixels[i]) - centres[i];
  } else {
    for (int64_t j = 0; j < picture.width; ++j) fill(out + 3 + 3 * j);
  }
  fill(out + 3 + numbers);
  fill(out + 6 + numbers);
}

// Buffers of the stem for rows that many pixels wide.
template <class A>
struct StemRoom {
  float *centres, *seen, *sums;
  A* inner;
  int64_t pixels, row, bytes;  // numbers of a row of pixels, and of a row between the convolutions

  StemRoom(void* scratch, int64_t width, int64_t channels, int64_t sums_pitch) {
    Room room(scratch);
    pixels = (width + 3 + 2 * kTogether) * 3;
    row = (halved_side(width) + 2 + 2 * kTogether) * channels;
    centres = room.take<float>(3 * width);
    seen = room.take<float>(3 * pixels);
    sums = room.take<float>(kTogether * sums_pitch);
    inner = room.take<A>(3 * row);
    bytes = room.taken(scratch);
  }
};

template <class A, class X>
void stem_tokens(const PixelRows& picture, const Panels& panels1, const NormWeights& norm1, const Panels& panels2,
                 const NormWeights& norm2, X* out, int64_t first, int64_t last, void* scratch) {
  const Matrix<float> conv1(panels1);
  const Matrix<A> conv2(panels2);
  const int64_t channels = conv1.outputs, outputs = conv2.outputs;
  const int64_t inner_width = halved_side(picture.width), inner_height = halved_side(picture.height);
  const int64_t width = halved_side(inner_width);
  const int64_t pitch = pitch_of<float>(channels > outputs ? channels : outputs);
  const StemRoom<A> room(scratch, picture.width, channels, pitch);
  for (int64_t i = 0; i < 3 * picture.width; ++i) room.centres[i] = picture.centre[i % 3];
  const auto inner_row = [&](int64_t number) { return room.inner + (number + 3) % 3 * room.row; };
  // First convolution, norm and GELU of a row, between columns of zeros; all zeros outside the map.
  const auto find = [&](int64_t number) {
    A* to = inner_row(number);
    const auto column = sizeof(A) * static_cast<size_t>(channels);
    if (number < 0 || number >= inner_height) {
      memset(to, 0, column * static_cast<size_t>(inner_width + 2));
      return;
    }
    memset(to, 0, column);
    float* seen = room.seen;
    for (int64_t q = 0; q < 3; ++q) pixel_row(picture, 2 * number + q - 1, room.centres, seen + q * room.pixels);
    for (int64_t begin = 0; begin < inner_width; begin += kTogether, seen += 6 * kTogether) {
      const int64_t count = begin + kTogether < inner_width ? kTogether : inner_width - begin;
      multiply({{seen, seen + room.pixels, seen + 2 * room.pixels}, 3, 9, 6}, conv1, count,
               Put<false, float>{room.sums, pitch, channels});
      norm_tokens(room.sums, pitch, norm1, nullptr, room.sums, pitch, count, channels);
      gelu_tokens(room.sums, pitch, to + (1 + begin) * channels, count, channels);
    }
    memset(to + (1 + inner_width) * channels, 0, column);
  };
  find(2 * first - 1);
  for (int64_t i = first; i < last; ++i) {
    find(2 * i);
    find(2 * i + 1);
    for (int64_t begin = 0; begin < width; begin += kTogether) {
      const int64_t count = begin + kTogether < width ? kTogether : width - begin, place = 2 * begin * channels;
      multiply({{inner_row(2 * i - 1) + place, inner_row(2 * i) + place, inner_row(2 * i + 1) + place}, 3, 3 * channels,
                2 * channels},
               conv2, count, Put<false, float>{room.sums, pitch, outputs});
      norm_tokens(room.sums, pitch, norm2, nullptr, out + ((i - first) * width + begin) * outputs, outputs, count, outputs);
    }
  }
}

// ---- the table -----------------------------------------------------------------------------------------------------

// Call run(as) with a null pointer of the type that a storage holds.
template <class Run>
VMAMBA_INLINE void with_type(Storage storage, Run run) {
  if (storage == Storage::bfloat16) {
    run(static_cast<Bf16*>(nullptr));
  } else {
    run(static_cast<float*>(nullptr));
  }
}

template <class X>
const X* as_type(const void* pointer, X* /*as*/) { return static_cast<const X*>(pointer); }
template <class X>
X* as_type(void* pointer, X* /*as*/) { return static_cast<X*>(pointer); }

// The same for panels; only where pairs are multiplied is there a second kind.
template <class Run>
VMAMBA_INLINE void with_panels(const Panels& panels, Run run) {
#if defined(__AMX_BF16__) || (defined(__AVX512BF16__) && VMAMBA_LANES == 16)
  with_type(panels.storage, run);
#else
  (void)panels;
  run(static_cast<float*>(nullptr));
#endif
}

void linear_any(const void* x, Storage from, const float* gate, const NormWeights& norm, const Panels& w, void* out,
                Storage to, bool add, int64_t tokens, void* scratch) {
  with_panels(w, [&](auto* kind) {
    using A = pointed_type<decltype(kind)>;
    with_type(from, [&](auto* in) {
      with_type(to, [&](auto* as) {
        linear_tokens<A>(as_type(x, in), gate, norm, w, as_type(out, as), add, tokens, scratch);
      });
    });
  });
}

void rest_any(void* x, Storage storage, const float* y, const float* gate, const NormWeights& out_norm,
              const Panels& out_proj, const NormWeights& norm, const Panels& first, const Panels& second, int64_t tokens,
              void* scratch) {
  with_panels(first, [&](auto* kind) {
    using A = pointed_type<decltype(kind)>;
    with_type(storage, [&](auto* as) {
      rest_tokens<A>(as_type(x, as), y, gate, out_norm, out_proj, norm, first, second, tokens, scratch);
    });
  });
}

void conv_any(const ConvRows& map, Storage storage, const Panels& w, const NormWeights& norm, void* out, int64_t out_rows,
              void* scratch) {
  with_panels(w, [&](auto* kind) {
    using A = pointed_type<decltype(kind)>;
    with_type(storage, [&](auto* as) { conv_tokens<A>(map, w, norm, as_type(out, as), out_rows, scratch); });
  });
}

void stem_any(const PixelRows& picture, const Panels& conv1, const NormWeights& norm1, const Panels& conv2,
              const NormWeights& norm2, void* out, Storage storage, int64_t first, int64_t last, void* scratch) {
  with_panels(conv2, [&](auto* kind) {
    using A = pointed_type<decltype(kind)>;
    with_type(storage, [&](auto* as) {
      stem_tokens<A>(picture, conv1, norm1, conv2, norm2, as_type(out, as), first, last, scratch);
    });
  });
}

// Enough for any of the operators, in float32.
int64_t scratch_bytes(int64_t inputs, int64_t outputs, int64_t width) {
  const int64_t widest = inputs > outputs ? inputs : outputs, pitch = pitch_of<float>(widest);
  const int64_t tokens = 2 * kTogether * pitch * static_cast<int64_t>(sizeof(float));
  if (width == 0) return tokens;
  const int64_t windows = 3 * kWindowColumns * inputs * static_cast<int64_t>(sizeof(float));
  return tokens + windows + StemRoom<float>(nullptr, width, widest, pitch).bytes;
}

void gelu_floats(const float* x, float* out, int64_t count, bool rough) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec value = load(x + i);
    rough ? gelu_rough<1>(&value) : gelu_exact<1>(&value);
    store(out + i, value);
  }
}

#define VMAMBA_QUOTE(text) #text
#define VMAMBA_NAME(text) VMAMBA_QUOTE(text)
#if defined(__AMX_BF16__) || (defined(__AVX512BF16__) && VMAMBA_LANES == 16)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

const TokenKernels table = {VMAMBA_NAME(VMAMBA_ISA), kPairs, linear_any, rest_any, conv_any, stem_any, scratch_bytes, gelu_floats};

}  // namespace

namespace vmamba {
const TokenKernels* VMAMBA_TOKENS_GETTER(VMAMBA_ISA)() { return &table; }
}  // namespace vmamba
