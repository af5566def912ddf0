// The part of the Python module `_cpu` for inference around the scan: the operators of tokens.hpp and, with the depthwise
// convolution between them, all that the scan takes of a strip; on one thread.
#include "module.hpp"
#include "tokens.hpp"

#include <cstring>

namespace {

const std::vector<const TokenKernels*>& compiled_tokens() {
  static const auto usable = usable_tables<TokenKernels>(
      {tokens_amx(), tokens_avx512bf16(), tokens_avx512(), tokens_avx2(), tokens_baseline()});
  return usable;
}

const TokenKernels& choose_tokens(const std::string& isa) { return choose_table(compiled_tokens(), isa); }

using MaybeFloats = std::optional<ConstFloats>;

Panels panels_of(const TokenKernels& kernels, const ConstActivation& weight, const MaybeFloats& bias, int64_t inputs,
                 int64_t outputs) {
  const Storage storage = storage_of(weight, "weight");
  require(storage == Storage::float32 || kernels.pairs, "these kernels multiply no bfloat16; pack float32 panels");
  require(storage == Storage::float32 || inputs % 16 == 0, "bfloat16 panels need a multiple of 16 inputs");
  require(inputs >= 1 && outputs >= 1, "a matrix needs inputs and outputs");
  const int64_t padded = (outputs + kBlock - 1) / kBlock * kBlock;
  require_size(weight, padded * inputs, "weight");
  if (bias) require_size(*bias, padded, "bias");
  return {weight.data(), storage, bias ? bias->data() : nullptr, inputs, outputs};
}

NormWeights norm_of(const ConstFloats& weight, const ConstFloats& bias, double eps, int64_t channels) {
  require(channels % kBlock == 0, "channels must be whole blocks of 16");
  require_size(weight, channels, "norm weight");
  require_size(bias, channels, "norm bias");
  return {weight.data(), bias.data(), static_cast<float>(eps)};
}

int64_t tokens_of(const void* /*x*/, size_t size, int64_t channels) {
  require(static_cast<int64_t>(size) % channels == 0, "the array does not hold whole tokens");
  return static_cast<int64_t>(size) / channels;
}

std::unique_ptr<float[], Free> scratch_bytes(const TokenKernels& kernels, int64_t inputs, int64_t outputs, int64_t width) {
  return scratch_floats((kernels.scratch(inputs, outputs, width) + 3) / 4);
}

void linear(const ConstActivation& x, const MaybeFloats& gate, const MaybeFloats& norm_weight, const MaybeFloats& norm_bias,
            double eps, const ConstActivation& weight, const MaybeFloats& bias, int64_t inputs, int64_t outputs,
            const Activation& out, bool add, const std::string& isa) {
  const TokenKernels& kernels = choose_tokens(isa);
  const Panels panels = panels_of(kernels, weight, bias, inputs, outputs);
  require(inputs % kBlock == 0, "inputs must be whole blocks of 16");
  require(norm_weight.has_value() == norm_bias.has_value(), "a norm needs weight and bias");
  require(!gate || norm_weight, "a gate needs a norm");
  const NormWeights norm = norm_weight ? norm_of(*norm_weight, *norm_bias, eps, inputs) : NormWeights{nullptr, nullptr, 0.0f};
  const int64_t tokens = tokens_of(x.data(), x.size(), inputs);
  require_size(out, tokens * outputs, "out");
  if (gate) require_size(*gate, tokens * inputs, "gate");
  // A norm has read a few tokens before they are written, in the same places.
  const bool in_place = norm_weight && x.data() == out.data() && x.nbytes() == out.nbytes();
  if (!in_place) require_apart(x, out, "out must not lie where x does, but with a norm exactly there");
  if (gate) require_apart(*gate, out, "out must not lie where gate does");
  const Storage from = storage_of(x, "x"), to = storage_of(out, "out");
  const nb::gil_scoped_release release;
  const auto scratch = scratch_bytes(kernels, inputs, outputs, 0);
  kernels.linear(x.data(), from, gate ? gate->data() : nullptr, norm, panels, out.data(), to, add, tokens, scratch.get());
}

void rest(const Activation& x, const ConstFloats& y, const MaybeFloats& gate, const ConstFloats& out_norm_weight,
          const ConstFloats& out_norm_bias, double out_eps, const ConstActivation& out_weight, const MaybeFloats& out_bias,
          int64_t inner, const ConstFloats& norm_weight, const ConstFloats& norm_bias, double eps,
          const ConstActivation& weight1, const ConstFloats& bias1, const ConstActivation& weight2, const ConstFloats& bias2,
          int64_t channels, int64_t hidden, const std::string& isa) {
  const TokenKernels& kernels = choose_tokens(isa);
  const NormWeights norm = norm_of(norm_weight, norm_bias, eps, channels);
  const Panels first = panels_of(kernels, weight1, bias1, channels, hidden);
  const Panels second = panels_of(kernels, weight2, bias2, hidden, channels);
  require(hidden % kBlock == 0, "the hidden width must be whole blocks of 16");
  const NormWeights out_norm = norm_of(out_norm_weight, out_norm_bias, out_eps, inner);
  const Panels out_proj = panels_of(kernels, out_weight, out_bias, inner, channels);
  require(first.storage == second.storage && out_proj.storage == first.storage, "all matrices must be packed in one dtype");
  const int64_t tokens = tokens_of(x.data(), x.size(), channels);
  require_size(y, tokens * inner, "y");
  require_apart(x, y, "x must not lie where the scan does");
  if (gate) require_size(*gate, tokens * inner, "gate");
  const Storage storage = storage_of(x, "x");
  const nb::gil_scoped_release release;
  const auto scratch = scratch_bytes(kernels, std::max(hidden, inner), channels, 0);
  kernels.rest(x.data(), storage, y.data(), gate ? gate->data() : nullptr, out_norm, out_proj, norm, first, second, tokens,
               scratch.get());
}

// ---- what the scan takes of a strip ----------------------------------------------------------------------------------

// Bytes of projected rows that are convolved before the next ones come: they should stay in the second-level cache.
constexpr int64_t kProjectedBytes = 128 * 1024;

// Where the columns of a strip lie in a wider window, in which there are others between the runs: (runs, 3), first column, how
// many, and their first place in a row of the window.
using Runs = nb::ndarray<const int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

// Rows of tokens of `bytes` bytes each, `width` to a row of a map and `wide` to one of the window. Without runs they are equal.
class Spread {
 public:
  Spread(const std::optional<Runs>& runs, int64_t width, int64_t wide, int64_t bytes)
      : runs_(runs ? runs->data() : nullptr), count_(runs ? static_cast<int64_t>(runs->shape(0)) : 0), width_(width), wide_(wide),
        bytes_(bytes) {
    require(width > 0 && wide > 0, "a row needs a token");
    require(runs || wide == width, "rows must be as wide as u where no runs are given");
    int64_t column = 0, place = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t *run = runs_ + 3 * i, length = run[1];
      require(run[0] == column && length > 0 && length <= width - column && run[2] >= place && run[2] <= wide - length,
              "runs must be the columns of u one after the other, in places of rows with a column between them");
      column += length;
      place = run[2] + length + 1;
    }
    require(!runs || column == width, "runs must be all columns of u");
  }

  bool apart() const { return runs_ != nullptr; }
  int64_t map_row() const { return width_ * bytes_; }
  int64_t window_row() const { return wide_ * bytes_; }
  int64_t wide() const { return wide_; }

  void to_window(const char* map, char* window, int64_t rows) const {
    each(rows, [=](int64_t own, int64_t place, size_t size) { std::memcpy(window + place, map + own, size); });
  }
  void from_window(const char* window, char* map, int64_t rows) const {
    each(rows, [=](int64_t own, int64_t place, size_t size) { std::memcpy(map + own, window + place, size); });
  }

 private:
  // copy(offset in a map, offset in a window, bytes) for each run of each row.
  template <class Copy>
  void each(int64_t rows, Copy copy) const {
    for (int64_t row = 0; row < rows; ++row) {
      for (const int64_t* run = runs_; run < runs_ + 3 * count_; run += 3) {
        copy(row * map_row() + run[0] * bytes_, row * window_row() + run[2] * bytes_, static_cast<size_t>(run[1] * bytes_));
      }
    }
  }

  const int64_t* runs_;
  int64_t count_, width_, wide_, bytes_;
};

// The arrays of a strip, checked, and the way through them: in_proj of x to rows of the window, a few at a time, their
// convolution to u, and x_proj of that.
struct ScanInputs {
  const TokenKernels& kernels;
  const Kernels& local;
  NormWeights norm;
  Panels in_proj, x_proj;
  const float *conv_weight, *conv_bias;
  Storage storage;
  const Spread& spread;
  const char* x;
  char *window, *u;
  float* proj;
  int64_t count, width, inner, first, given;  // rows and columns of u; rows of the window that x is: [first, given)

  void run() const {
    const int64_t projected = x_proj.outputs, x_row = spread.map_row() / inner * in_proj.inputs;
    const int64_t group = std::min(count, std::max<int64_t>(1, kProjectedBytes / spread.window_row()));
    const auto scratch =
        scratch_bytes(kernels, std::max(in_proj.inputs, inner), std::max(inner, projected), 0);
    const auto aside = scratch_floats(spread.apart() ? (group + 2) * spread.window_row() / 4 + 1 : 0);
    char* const unspread = reinterpret_cast<char*>(aside.get());
    int64_t done = first;
    for (int64_t begin = 0; begin < count; begin += group) {
      const int64_t end = std::min(begin + group, count), until = std::min(end + 2, given);
      if (done < until) {
        char *const rows = window + done * spread.window_row(), *const own = spread.apart() ? unspread : rows;
        kernels.linear(x + (done - first) * x_row, storage, nullptr, norm, in_proj, own, storage, false, (until - done) * width,
                       scratch.get());
        if (spread.apart()) spread.to_window(own, rows, until - done);
        done = until;
      }
      char *const own = u + begin * spread.map_row(), *const convolved = spread.apart() ? unspread : own;
      local.depthwise_silu(window + begin * spread.window_row(), convolved, storage, conv_weight, conv_bias, end - begin,
                           spread.wide(), inner);
      if (spread.apart()) spread.from_window(convolved, own, end - begin);
      kernels.linear(own, storage, nullptr, NormWeights{nullptr, nullptr, 0.0f}, x_proj, proj + begin * width * projected,
                     Storage::float32, false, (end - begin) * width, scratch.get());
    }
  }
};

void scan_inputs(const ConstActivation& x, const ConstFloats& norm_weight, const ConstFloats& norm_bias, double eps,
                 const ConstActivation& in_weight, const Activation& rows, int64_t first, const std::optional<Runs>& runs,
                 const ConstFloats& conv_weight, const MaybeFloats& conv_bias, const ConstActivation& x_weight,
                 const Activation& u, const Floats& proj, const std::string& isa) {
  const TokenKernels& kernels = choose_tokens(isa);
  require(x.ndim() == 3 && rows.ndim() == 3 && u.ndim() == 3 && proj.ndim() == 3, "maps must be (rows, width, channels)");
  const auto count = static_cast<int64_t>(u.shape(0)), width = static_cast<int64_t>(u.shape(1));
  const auto channels = static_cast<int64_t>(x.shape(2)), inner = static_cast<int64_t>(u.shape(2));
  const auto projected = static_cast<int64_t>(proj.shape(2)), wide = static_cast<int64_t>(rows.shape(1));
  const auto n_rows = static_cast<int64_t>(x.shape(0));
  require(count > 0, "u needs a row");
  require(inner > 0 && inner % kBlock == 0, "u must be whole blocks of 16");
  require(first >= 0 && n_rows <= count + 2 - first, "x must fit into rows");
  require_size(x, n_rows * width * channels, "x");
  require_size(rows, (count + 2) * wide * inner, "rows");
  require_size(proj, count * width * projected, "proj");
  require_size(conv_weight, 9 * inner, "weight of the convolution");
  if (conv_bias) require_size(*conv_bias, inner, "bias of the convolution");
  const Storage storage = storage_of(x, "x");
  require(storage_of(rows, "rows") == storage && storage_of(u, "u") == storage, "rows and u must have the dtype of x");
  require_apart(rows, u, "u must not lie where rows do");
  require_apart(x, rows, "rows must not lie where x does");
  require_apart(x, u, "u must not lie where x does");
  const Spread spread(runs, width, wide, inner * (storage == Storage::float32 ? 4 : 2));
  const ScanInputs strip{kernels,
                         choose(isa == "amx" ? "avx512bf16" : isa),  // tile registers are for products alone
                         norm_of(norm_weight, norm_bias, eps, channels),
                         panels_of(kernels, in_weight, std::nullopt, channels, inner),
                         panels_of(kernels, x_weight, std::nullopt, inner, projected),
                         conv_weight.data(),
                         conv_bias ? conv_bias->data() : nullptr,
                         storage,
                         spread,
                         static_cast<const char*>(x.data()),
                         static_cast<char*>(rows.data()),
                         static_cast<char*>(u.data()),
                         proj.data(),
                         count,
                         width,
                         inner,
                         first,
                         first + n_rows};
  const nb::gil_scoped_release release;
  strip.run();
}

// ---- convolutions ----------------------------------------------------------------------------------------------------

void conv(const ConstActivation& rows, int64_t middle, const ConstActivation& weight, const ConstFloats& bias,
          const ConstFloats& norm_weight, const ConstFloats& norm_bias, double eps, const Activation& out,
          const std::string& isa) {
  const TokenKernels& kernels = choose_tokens(isa);
  require(rows.ndim() == 3 && out.ndim() == 3, "rows and out must be (rows, width, channels)");
  const auto width = static_cast<int64_t>(rows.shape(1)), channels = static_cast<int64_t>(rows.shape(2));
  const auto outputs = static_cast<int64_t>(out.shape(2));
  require(middle == 0 || middle == 1, "the first window must be centred on row 0 or 1");
  require_apart(rows, out, "out must not lie where rows do");
  require(channels % kBlock == 0, "channels must be whole blocks of 16");
  require(static_cast<int64_t>(out.shape(1)) == (width + 1) / 2, "out must be half as wide as rows");
  require(storage_of(out, "out") == storage_of(rows, "rows"), "out must have the dtype of rows");
  const Panels panels = panels_of(kernels, weight, bias, 9 * channels, outputs);
  const NormWeights norm = norm_of(norm_weight, norm_bias, eps, outputs);
  const ConvRows map{rows.data(), static_cast<int64_t>(rows.shape(0)), width, middle};
  const nb::gil_scoped_release release;
  const auto scratch = scratch_bytes(kernels, channels, outputs, 1);
  kernels.conv(map, storage_of(rows, "rows"), panels, norm, out.data(), static_cast<int64_t>(out.shape(0)), scratch.get());
}

using ConstBytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;

void pixel_stem(const ConstBytes& pixels, int64_t top, int64_t height, const ConstFloats& fill, const ConstFloats& centre,
                const ConstFloats& weight1, const ConstFloats& bias1, const ConstFloats& norm_weight1,
                const ConstFloats& norm_bias1, double eps1, const ConstActivation& weight2, const ConstFloats& bias2,
                const ConstFloats& norm_weight2, const ConstFloats& norm_bias2, double eps2, const Activation& out,
                int64_t first, const std::string& isa) {
  const TokenKernels& kernels = choose_tokens(isa);
  require(pixels.ndim() == 3 && pixels.shape(2) == 3, "pixels must be (rows, width, 3)");
  require(out.ndim() == 3, "out must be (rows, width, channels)");
  require_size(fill, 3, "fill");
  require_size(centre, 3, "centre");
  const auto width = static_cast<int64_t>(pixels.shape(1)), inner = static_cast<int64_t>(bias1.size());
  const auto rows = static_cast<int64_t>(out.shape(0)), outputs = static_cast<int64_t>(out.shape(2));
  require(static_cast<int64_t>(out.shape(1)) == ((width + 1) / 2 + 1) / 2, "out must be a quarter as wide as the pixels");
  require_size(weight1, 27 * inner, "weight of the first convolution");
  const Panels conv1{weight1.data(), Storage::float32, bias1.data(), 27, inner};
  const Panels conv2 = panels_of(kernels, weight2, bias2, 9 * inner, outputs);
  const NormWeights norm1 = norm_of(norm_weight1, norm_bias1, eps1, inner);
  const NormWeights norm2 = norm_of(norm_weight2, norm_bias2, eps2, outputs);
  const auto held = static_cast<int64_t>(pixels.shape(0));
  require(width > 0 && height > 0 && height < (int64_t{1} << 40), "the picture must have rows and columns");
  require(first >= 0 && first <= height / 4 + 1 && first + rows <= ((height + 1) / 2 + 1) / 2, "out must be rows of the result");
  require(top >= 0 && top <= std::max<int64_t>(4 * first - 3, 0) && top + held >= std::min(4 * (first + rows), height),
          "pixels must hold all rows that out depends on");
  const PixelRows picture{pixels.data(), held, width, top, height, fill.data(), centre.data()};
  const nb::gil_scoped_release release;
  const auto scratch = scratch_bytes(kernels, inner, outputs, width);
  kernels.stem(picture, conv1, norm1, conv2, norm2, out.data(), storage_of(out, "out"), first, first + rows, scratch.get());
}

void gelu_floats(const ConstFloats& x, const Floats& out, bool rough, const std::string& isa) {
  require_size(out, static_cast<int64_t>(x.size()), "out");
  require(x.size() % kBlock == 0, "GELU is of whole blocks of 16");
  choose_tokens(isa).gelu(x.data(), out.data(), static_cast<int64_t>(x.size()), rough);
}

}  // namespace

void add_tokens(nb::module_& m) {
  m.def("token_instruction_sets", [] { return table_names(compiled_tokens()); },
        "Instruction sets of the operators around the scan, best first.");
  m.def("multiplies_pairs", [](const std::string& isa) { return choose_tokens(isa).pairs; }, "isa"_a = "",
        "Whether matrices may be packed in bfloat16.");
  m.def("linear", &linear, "x"_a, "gate"_a.none(), "norm_weight"_a.none(), "norm_bias"_a.none(), "eps"_a, "weight"_a,
        "bias"_a.none(), "inputs"_a, "outputs"_a, "out"_a, "add"_a, "isa"_a = "");
  m.def("scan_inputs", &scan_inputs, "x"_a, "norm_weight"_a, "norm_bias"_a, "eps"_a, "in_weight"_a, "rows"_a, "first"_a,
        "runs"_a.none(), "conv_weight"_a, "conv_bias"_a.none(), "x_weight"_a, "u"_a, "proj"_a, "isa"_a = "");
  m.def("rest", &rest, "x"_a, "y"_a, "gate"_a.none(), "out_norm_weight"_a, "out_norm_bias"_a, "out_eps"_a, "out_weight"_a,
        "out_bias"_a.none(), "inner"_a, "norm_weight"_a, "norm_bias"_a, "eps"_a, "weight1"_a, "bias1"_a, "weight2"_a,
        "bias2"_a, "channels"_a, "hidden"_a, "isa"_a = "");
  m.def("conv", &conv, "rows"_a, "middle"_a, "weight"_a, "bias"_a, "norm_weight"_a, "norm_bias"_a, "eps"_a, "out"_a,
        "isa"_a = "");
  m.def("pixel_stem", &pixel_stem, "pixels"_a, "top"_a, "height"_a, "fill"_a, "centre"_a, "weight1"_a, "bias1"_a,
        "norm_weight1"_a, "norm_bias1"_a, "eps1"_a, "weight2"_a, "bias2"_a, "norm_weight2"_a, "norm_bias2"_a, "eps2"_a,
        "out"_a, "first"_a, "isa"_a = "");
  m.def("gelu_floats", &gelu_floats, "x"_a, "out"_a, "rough"_a, "isa"_a = "");
}
