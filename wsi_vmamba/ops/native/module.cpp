// The Python module `_cpu`: checks of dtype and layout (nanobind), choice of instruction set, threads.
//
// cpu.py is the only caller and checks shapes against each other; here every array is checked for its dtype,
// its device, contiguity and its total size, so a wrong call raises instead of reading past an end.
#include "module.hpp"

namespace {

// Ranges of whole blocks of channels, as few as keep every thread busy: wide ranges read memory in long runs.
struct ChannelSplit {
  int64_t span, count;

  ChannelSplit(int64_t padded, int64_t images, int64_t threads) {
    const int64_t blocks = padded / kBlock;
    const int64_t parts = std::min(blocks, std::max<int64_t>(1, (threads + images - 1) / images));
    span = (blocks + parts - 1) / parts * kBlock;
    count = (padded + span - 1) / span;
  }
};

// ---- the scan ------------------------------------------------------------------------------------------------

ScanWeights scan_weights(const ConstFloats& weight, const ConstFloats& bias, const ConstFloats& rate,
                         const ConstFloats& skip, int64_t channels) {
  require(weight.ndim() == 4 && rate.ndim() == 3, "weight must be (4, blocks, rank, 16) and rate (4, state, padded)");
  const auto padded = static_cast<int64_t>(rate.shape(2));
  const auto rank = static_cast<int64_t>(weight.shape(2));
  const auto state = static_cast<int64_t>(rate.shape(1));
  require(padded == (channels + kBlock - 1) / kBlock * kBlock, "padded channels do not match the channels of u");
  require(state >= 1 && rank >= 1 && channels >= 1, "state, rank and channels must be at least 1");
  require_size(weight, 4 * padded * rank, "weight");
  require_size(bias, 4 * padded, "bias");
  require_size(rate, 4 * state * padded, "rate");
  require_size(skip, padded, "skip");
  return {weight.data(), bias.data(), rate.data(), skip.data(), channels, padded, rank, state};
}

// Images of u: (images, rows, width, channels).
struct Images {
  int64_t count, rows, width, channels;

  template <class Array>
  explicit Images(const Array& u) {
    require(u.ndim() == 4, "u must be (images, rows, width, channels)");
    count = static_cast<int64_t>(u.shape(0));
    rows = static_cast<int64_t>(u.shape(1));
    width = static_cast<int64_t>(u.shape(2));
    channels = static_cast<int64_t>(u.shape(3));
    require(count >= 1 && rows >= 1 && width >= 1, "u must hold at least one token");
  }

  int64_t tokens() const { return rows * width; }
};

int64_t proj_width(const ScanWeights& w) { return 4 * (w.rank + 2 * w.state); }

Strip strip_of(const ConstActivation& u, const ConstFloats& proj, const ScanWeights& w, const Images& shape,
               int64_t image) {
  const Storage storage = storage_of(u, "u");
  const int64_t size = storage == Storage::float32 ? 4 : 2;
  const char* base = static_cast<const char*>(u.data());
  return {base + image * shape.tokens() * shape.channels * size, storage,
          proj.data() + image * shape.tokens() * proj_width(w), shape.rows, shape.width};
}

// Decay and state of the four directions of one image, carved from one allocation.
class WholeMapCarry {
 public:
  // Rows are entered by nothing: their states start at zero. Those of the columns have to be found.
  WholeMapCarry(const ScanWeights& w, int64_t width)
      : row_(w.state * w.padded), column_(width * row_), memory_(scratch_floats(4 * row_ + 4 * column_)) {
    const Carry all = carry();
    std::fill_n(all.row_forward.state, row_, 0.0f);
    std::fill_n(all.row_backward.state, row_, 0.0f);
  }

  Carry carry() const {
    float* p = memory_.get();
    auto take = [&p](int64_t count) {
      const Transition t{p, p + count};
      p += 2 * count;
      return t;
    };
    const Transition a = take(row_), b = take(row_), c = take(column_), d = take(column_);
    return {a, b, c, d};
  }

 private:
  int64_t row_, column_;
  std::unique_ptr<float[], Free> memory_;
};

// Turn the transitions of the columns into the states that enter them, for one block of channels and one n.
void enter_columns(const Kernels& kernels, const Carry& carry, int64_t width, int64_t group) {
  const int64_t pitch = width * kBlock;
  const auto entry = scratch_floats(2 * pitch);
  const Transition &down = carry.column_forward, &up = carry.column_backward;
  kernels.combine(down.decay + group * pitch, down.state + group * pitch, 1, pitch, width, false, entry.get());
  kernels.combine(up.decay + group * pitch, up.state + group * pitch, 1, pitch, width, true, entry.get());
}

void forward(const ConstActivation& u, const ConstFloats& proj, const ConstFloats& weight, const ConstFloats& bias,
             const ConstFloats& rate, const ConstFloats& skip, const Floats& y, int64_t threads,
             const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Images shape(u);
  const ScanWeights w = scan_weights(weight, bias, rate, skip, shape.channels);
  require_size(proj, shape.count * shape.tokens() * proj_width(w), "proj");
  require_size(y, shape.count * shape.tokens() * shape.channels, "y");
  std::vector<WholeMapCarry> memory;
  for (int64_t i = 0; i < shape.count; ++i) memory.emplace_back(w, shape.width);

  // What each column does to a state that enters it; columns are independent.
  const int64_t parts = std::min(shape.width, (threads + shape.count - 1) / shape.count);
  parallel_for(shape.count * parts, threads, [&](int64_t job) {
    const int64_t image = job / parts, part = job % parts;
    kernels.summarize_columns(w, strip_of(u, proj, w, shape, image), memory[image].carry(), true,
                              part * shape.width / parts, (part + 1) * shape.width / parts, 0, w.padded);
  });
  const int64_t groups = w.padded / kBlock * w.state;
  parallel_for(shape.count * groups, threads, [&](int64_t job) {
    enter_columns(kernels, memory[job / groups].carry(), shape.width, job % groups);
  });

  // The sweep down and the sweep up run side by side, each writing the half of the map it meets first; then each
  // goes on and adds to the other's half. So two threads read whole tokens, where ranges of channels read parts.
  const int64_t middle = shape.rows / 2;
  const ChannelSplit split(w.padded, 2 * shape.count, threads);
  for (const bool add : {false, true}) {
    parallel_for(2 * shape.count * split.count, threads, [&](int64_t job) {
      const int64_t image = job / 2 / split.count, first = job / 2 % split.count * split.span;
      const bool downward = job % 2 == 0, upper = downward != add;
      const Sweep way{downward, add, upper ? 0 : middle, upper ? middle : shape.rows};
      kernels.sweep(w, strip_of(u, proj, w, shape, image), memory[image].carry(), way,
                    y.data() + image * shape.tokens() * shape.channels, first,
                    std::min(first + split.span, w.padded));
    });
  }
}

// How many shares of the gradient of `proj` and of scratch `backward` works with.
int64_t backward_ranges(int64_t channels, int64_t images, int64_t threads) {
  const int64_t padded = (channels + kBlock - 1) / kBlock * kBlock;
  return ChannelSplit(padded, images, threads).count;
}

void backward(const ConstFloats& u, const ConstFloats& proj, const ConstFloats& weight, const ConstFloats& bias,
              const ConstFloats& rate, const ConstFloats& skip, const ConstFloats& grad_y, const Floats& grad_u,
              const Floats& grad_proj, const Floats& grad_weight, const Floats& grad_bias, const Floats& grad_rate,
              const Floats& grad_skip, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Images shape(u);
  const ScanWeights w = scan_weights(weight, bias, rate, skip, shape.channels);
  const ChannelSplit split(w.padded, shape.count, threads);
  const int64_t map = shape.tokens() * shape.channels, projected = shape.tokens() * proj_width(w);
  require_size(proj, shape.count * projected, "proj");
  require_size(grad_y, shape.count * map, "grad_y");
  require_size(grad_u, shape.count * map, "grad_u");
  require_size(grad_proj, split.count * shape.count * projected, "grad_proj");
  require_size(grad_weight, shape.count * 4 * w.padded * w.rank, "grad_weight");
  require_size(grad_bias, shape.count * 4 * w.padded, "grad_bias");
  require_size(grad_rate, shape.count * 4 * w.state * w.padded, "grad_rate");
  require_size(grad_skip, shape.count * w.padded, "grad_skip");
  parallel_for(shape.count * split.count, threads, [&](int64_t job) {
    const int64_t image = job / split.count, part = job % split.count;
    const int64_t first = part * split.span, last = std::min(first + split.span, w.padded);
    const Strip strip{u.data() + image * map, Storage::float32, proj.data() + image * projected, shape.rows,
                      shape.width};
    const Gradients grad{grad_u.data() + image * map,
                         grad_proj.data() + (part * shape.count + image) * projected,
                         grad_weight.data() + image * 4 * w.padded * w.rank,
                         grad_bias.data() + image * 4 * w.padded,
                         grad_rate.data() + image * 4 * w.state * w.padded,
                         grad_skip.data() + image * w.padded};
    const auto scratch = scratch_floats(kernels.backward_scratch(w, shape.rows, shape.width, first, last));
    kernels.backward(w, strip, grad_y.data() + image * map, nullptr, grad, scratch.get(), first, last);
  });
}

// ---- small maps ------------------------------------------------------------------------------------------------

// The tokens of a map in the order of the four directions.
std::vector<int32_t> walks_of(int64_t rows, int64_t width) {
  const int64_t tokens = rows * width;
  std::vector<int32_t> walks(4 * tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    walks[t] = static_cast<int32_t>(t);
    walks[tokens + t] = static_cast<int32_t>(t % rows * width + t / rows);
  }
  std::reverse_copy(walks.begin(), walks.begin() + 2 * tokens, walks.begin() + 2 * tokens);
  std::rotate(walks.begin() + 2 * tokens, walks.begin() + 3 * tokens, walks.end());
  return walks;
}

// One call over images of small maps: shapes, weights and where each image lies.
struct WalkedImages {
  Images shape;
  ScanWeights weights;
  Storage storage, proj_storage;
  int64_t map_bytes, proj_bytes;
  std::vector<int32_t> walks;

  WalkedImages(const ConstActivation& u, const ConstActivation& proj, const ConstFloats& weight,
               const ConstFloats& bias, const ConstFloats& rate, const ConstFloats& skip)
      : shape(u),
        weights(scan_weights(weight, bias, rate, skip, shape.channels)),
        storage(storage_of(u, "u")),
        proj_storage(storage_of(proj, "proj")),
        map_bytes(shape.tokens() * shape.channels * (storage == Storage::float32 ? 4 : 2)),
        proj_bytes(shape.tokens() * proj_width(weights) * (proj_storage == Storage::float32 ? 4 : 2)),
        walks(walks_of(shape.rows, shape.width)) {
    require(weights.state == 1, "walks token by token are for one state per channel");
    require(shape.tokens() <= std::numeric_limits<int32_t>::max(), "the map is too large to be walked");
    require_size(proj, shape.count * shape.tokens() * proj_width(weights), "proj");
  }

  WalkedMap map(const ConstActivation& u, const ConstActivation& proj, int64_t image) const {
    return {static_cast<const char*>(u.data()) + image * map_bytes, storage,
            static_cast<const char*>(proj.data()) + image * proj_bytes, proj_storage, shape.tokens()};
  }
};

void require_like(const ConstActivation& array, const ConstActivation& other, const char* name) {
  require_size(array, static_cast<int64_t>(other.size()), name);
  require(array.dtype() == other.dtype(), std::string(name) + " has another dtype than what it belongs to");
}

void walk(const ConstActivation& u, const ConstActivation& proj, const ConstFloats& weight, const ConstFloats& bias,
          const ConstFloats& rate, const ConstFloats& skip, const Activation& y, int64_t threads,
          const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const WalkedImages all(u, proj, weight, bias, rate, skip);
  require_like(ConstActivation(y), u, "y");
  parallel_for(all.shape.count, threads, [&](int64_t image) {
    const auto scratch = scratch_floats(kernels.walk_scratch(all.weights, all.shape.tokens()));
    kernels.walk(all.weights, all.map(u, proj, image), all.walks.data(),
                 static_cast<char*>(y.data()) + image * all.map_bytes, scratch.get());
  });
}

// Images are dealt out to the shares of the gradients of the weights, (shares, ...); each share is added up in order, so
// the result does not depend on the number of threads.
void walk_gradients(const ConstActivation& u, const ConstActivation& proj, const ConstFloats& weight,
                    const ConstFloats& bias, const ConstFloats& rate, const ConstFloats& skip,
                    const ConstActivation& grad_y, const Activation& grad_u, const Activation& grad_proj,
                    const Floats& grad_weight, const Floats& grad_bias, const Floats& grad_rate,
                    const Floats& grad_skip, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const WalkedImages all(u, proj, weight, bias, rate, skip);
  const int64_t padded = all.weights.padded, weights = 4 * padded * all.weights.rank;
  const auto shares = static_cast<int64_t>(grad_skip.shape(0));
  require(shares >= 1 && shares <= all.shape.count, "expected at least one image per share of the gradients");
  require_like(grad_y, u, "grad_y");
  require_like(ConstActivation(grad_u), u, "grad_u");
  require_like(ConstActivation(grad_proj), proj, "grad_proj");
  require_size(grad_weight, shares * weights, "grad_weight");
  require_size(grad_bias, shares * 4 * padded, "grad_bias");
  require_size(grad_rate, shares * 4 * padded, "grad_rate");
  require_size(grad_skip, shares * padded, "grad_skip");
  parallel_for(shares, threads, [&](int64_t share) {
    const auto scratch = scratch_floats(kernels.walk_gradients_scratch(all.weights, all.shape.tokens()));
    float* to_weight = grad_weight.data() + share * weights;
    float* to_bias = grad_bias.data() + share * 4 * padded;
    float* to_rate = grad_rate.data() + share * 4 * padded;
    float* to_skip = grad_skip.data() + share * padded;
    std::fill_n(to_weight, weights, 0.0f);
    std::fill_n(to_bias, 4 * padded, 0.0f);
    std::fill_n(to_rate, 4 * padded, 0.0f);
    std::fill_n(to_skip, padded, 0.0f);
    const int64_t begin = share * all.shape.count / shares, end = (share + 1) * all.shape.count / shares;
    for (int64_t image = begin; image < end; ++image) {
      const WalkedGradients grad{static_cast<char*>(grad_u.data()) + image * all.map_bytes,
                                 static_cast<char*>(grad_proj.data()) + image * all.proj_bytes,
                                 to_weight, to_bias, to_rate, to_skip};
      kernels.walk_gradients(all.weights, all.map(u, proj, image), all.walks.data(),
                             static_cast<const char*>(grad_y.data()) + image * all.map_bytes, grad, scratch.get());
    }
  });
}

// ---- strips --------------------------------------------------------------------------------------------------

// Transitions of one direction: decay and state, each holding `lanes` = columns * state * padded per slot.
Transition slot_of(const nb::object& decay, const Floats& state, int64_t slot, int64_t lanes, const char* name) {
  require(state.size() % static_cast<size_t>(lanes) == 0 && slot >= 0 &&
              (slot + 1) * lanes <= static_cast<int64_t>(state.size()),
          std::string(name) + " has no such slot");
  float* decays = nullptr;
  if (!decay.is_none()) {
    const auto array = nb::cast<Floats>(decay);
    require_size(array, static_cast<int64_t>(state.size()), name);
    decays = array.data() + slot * lanes;
  }
  return {decays, state.data() + slot * lanes};
}

// The arrays of StripCarries: for each of the four directions a state and, until combined, a decay.
class CarryArrays {
 public:
  CarryArrays(const std::vector<nb::object>& decays, const std::vector<Floats>& states)
      : decays_(decays), states_(states) {
    require(decays.size() == 4 && states.size() == 4, "four directions expected");
  }

  Carry at(const ScanWeights& w, int64_t width, int64_t forward_slot, int64_t backward_slot) const {
    const int64_t row = w.state * w.padded, column = width * row;
    return {slot_of(decays_[0], states_[0], forward_slot, row, "row_forward"),
            slot_of(decays_[2], states_[2], backward_slot, row, "row_backward"),
            slot_of(decays_[1], states_[1], forward_slot, column, "column_forward"),
            slot_of(decays_[3], states_[3], backward_slot, column, "column_backward")};
  }

 private:
  const std::vector<nb::object>& decays_;
  const std::vector<Floats>& states_;
};

struct StripCall {
  Images shape;
  ScanWeights weights;
  Strip strip;

  StripCall(const ConstActivation& u, const ConstFloats& proj, const ConstFloats& weight, const ConstFloats& bias,
            const ConstFloats& rate, const ConstFloats& skip)
      : shape(u), weights(scan_weights(weight, bias, rate, skip, shape.channels)) {
    require(shape.count == 1, "a strip belongs to one image");
    require_size(proj, shape.tokens() * proj_width(weights), "proj");
    strip = strip_of(u, proj, weights, shape, 0);
  }
};

void summarize_strip(const ConstActivation& u, const ConstFloats& proj, const ConstFloats& weight,
                     const ConstFloats& bias, const ConstFloats& rate, const ConstFloats& skip,
                     const std::vector<nb::object>& decays, const std::vector<Floats>& states, int64_t forward_slot,
                     int64_t backward_slot, bool fresh, bool row_forward, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StripCall call(u, proj, weight, bias, rate, skip);
  for (const nb::object& decay : decays) require(!decay.is_none(), "the transitions have already been combined");
  const Carry carry = CarryArrays(decays, states).at(call.weights, call.shape.width, forward_slot, backward_slot);
  const nb::gil_scoped_release release;
  const FlushDenormals guard;
  kernels.summarize(call.weights, call.strip, carry, fresh, row_forward, backward_slot > 0, 0, call.weights.padded);
}

void apply_strip(const ConstActivation& u, const ConstFloats& proj, const ConstFloats& weight,
                 const ConstFloats& bias, const ConstFloats& rate, const ConstFloats& skip,
                 const std::vector<Floats>& states, int64_t forward_slot, int64_t backward_slot, const Floats& y,
                 const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StripCall call(u, proj, weight, bias, rate, skip);
  require_size(y, call.shape.tokens() * call.shape.channels, "y");
  const std::vector<nb::object> no_decays(4, nb::none());
  const Carry carry = CarryArrays(no_decays, states).at(call.weights, call.shape.width, forward_slot, backward_slot);
  const nb::gil_scoped_release release;
  const FlushDenormals guard;
  const int64_t rows = call.strip.rows, padded = call.weights.padded;
  kernels.sweep(call.weights, call.strip, carry, {true, false, 0, rows}, y.data(), 0, padded);
  kernels.sweep(call.weights, call.strip, carry, {false, true, 0, rows}, y.data(), 0, padded);
}

// Where the slot of a strip begins in the arrays of a StripCarries, for each direction: rows have one lane per channel and
// state, columns as many for each column.
std::array<float*, 4> strip_slots(const std::vector<Floats>& arrays, const StripCall& call, int64_t slot,
                                  const char* name) {
  require(arrays.size() == 4, "four directions expected");
  const int64_t row = call.weights.state * call.weights.padded;
  std::array<float*, 4> slots{};
  for (int k = 0; k < 4; ++k) {
    slots[k] = slot_of(nb::none(), arrays[k], slot, k % 2 == 0 ? row : call.shape.width * row, name).state;
  }
  return slots;
}

void summarize_adjoint_strip(const ConstFloats& u, const ConstFloats& proj, const ConstFloats& weight,
                             const ConstFloats& bias, const ConstFloats& rate, const ConstFloats& skip,
                             const ConstFloats& grad_y, const std::vector<Floats>& decays,
                             const std::vector<Floats>& states, int64_t slot, int64_t threads,
                             const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StripCall call(ConstActivation(u), proj, weight, bias, rate, skip);
  require_size(grad_y, call.shape.tokens() * call.shape.channels, "grad_y");
  const auto decay = strip_slots(decays, call, slot, "decays"), state = strip_slots(states, call, slot, "states");
  const Transition into[4] = {{decay[0], state[0]}, {decay[1], state[1]}, {decay[2], state[2]}, {decay[3], state[3]}};
  const nb::gil_scoped_release release;
  const ChannelSplit split(call.weights.padded, 1, threads);
  parallel_for(split.count, threads, [&](int64_t part) {
    const int64_t first = part * split.span, last = std::min(first + split.span, call.weights.padded);
    const auto scratch =
        scratch_floats(kernels.backward_scratch(call.weights, call.strip.rows, call.strip.width, first, last));
    kernels.summarize_adjoint(call.weights, call.strip, grad_y.data(), into, scratch.get(), first, last);
  });
}

// Gradients of a strip whose borders are known. Those of u and proj are written, as `backward` does; `entering` and
// `leaving` hold one slot per strip.
void backward_strip(const ConstFloats& u, const ConstFloats& proj, const ConstFloats& weight, const ConstFloats& bias,
                    const ConstFloats& rate, const ConstFloats& skip, const ConstFloats& grad_y,
                    const std::vector<Floats>& entering, const std::vector<Floats>& leaving, int64_t slot,
                    const Floats& grad_u, const Floats& grad_proj, const std::vector<Floats>& grad_weights,
                    int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StripCall call(ConstActivation(u), proj, weight, bias, rate, skip);
  const ScanWeights& w = call.weights;
  const ChannelSplit split(w.padded, 1, threads);
  const int64_t map = call.shape.tokens() * call.shape.channels, projected = call.shape.tokens() * proj_width(w);
  require_size(grad_y, map, "grad_y");
  require_size(grad_u, map, "grad_u");
  require_size(grad_proj, split.count * projected, "grad_proj");
  require(grad_weights.size() == 4, "gradients of weight, bias, rate and skip expected");
  require_size(grad_weights[0], 4 * w.padded * w.rank, "grad_weight");
  require_size(grad_weights[1], 4 * w.padded, "grad_bias");
  require_size(grad_weights[2], 4 * w.state * w.padded, "grad_rate");
  require_size(grad_weights[3], w.padded, "grad_skip");
  const auto in = strip_slots(entering, call, slot, "entering"), out = strip_slots(leaving, call, slot, "leaving");
  const Border borders[4] = {{in[0], out[0]}, {in[1], out[1]}, {in[2], out[2]}, {in[3], out[3]}};
  const nb::gil_scoped_release release;
  parallel_for(split.count, threads, [&](int64_t part) {
    const int64_t first = part * split.span, last = std::min(first + split.span, w.padded);
    const Gradients grad{grad_u.data(), grad_proj.data() + part * projected, grad_weights[0].data(),
                         grad_weights[1].data(), grad_weights[2].data(), grad_weights[3].data()};
    const auto scratch = scratch_floats(kernels.backward_scratch(w, call.strip.rows, call.strip.width, first, last));
    kernels.backward(w, call.strip, grad_y.data(), borders, grad, scratch.get(), first, last);
  });
}

// decay and state: (slots, groups, width, 16), a group being one block of channels and one n.
void combine(const ConstFloats& decay, const Floats& state, bool backward, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  require(state.ndim() == 4 && state.shape(3) == kBlock, "state must be (slots, groups, width, 16)");
  require_size(decay, static_cast<int64_t>(state.size()), "decay");
  const auto slots = static_cast<int64_t>(state.shape(0)), groups = static_cast<int64_t>(state.shape(1)),
             width = static_cast<int64_t>(state.shape(2));
  const int64_t size = width * kBlock;
  parallel_for(groups, threads, [&](int64_t g) {
    const auto entry = scratch_floats(2 * size);
    kernels.combine(decay.data() + g * size, state.data() + g * size, slots, groups * size, width, backward,
                    entry.get());
  });
}

// ---- local operators ---------------------------------------------------------------------------------------------

void layer_norm(const ConstActivation& x, const Activation& out, const nb::object& gate, const ConstFloats& weight,
                const ConstFloats& bias, float eps, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const auto channels = static_cast<int64_t>(weight.size());
  require(channels >= 1 && x.size() % static_cast<size_t>(channels) == 0, "x does not hold whole tokens");
  require_size(bias, channels, "bias");
  require_size(out, static_cast<int64_t>(x.size()), "out");
  const Storage from = storage_of(x, "x"), to = storage_of(out, "out");
  const void* factor = nullptr;
  if (!gate.is_none()) {
    const auto array = nb::cast<ConstActivation>(gate);
    require_size(array, static_cast<int64_t>(x.size()), "gate");
    require(storage_of(array, "gate") == from, "gate must have the dtype of x");
    factor = array.data();
  }
  const nb::gil_scoped_release release;
  kernels.layer_norm(x.data(), from, out.data(), to, factor, weight.data(), bias.data(), eps,
                     static_cast<int64_t>(x.size()) / channels, channels);
}

void depthwise_silu(const ConstActivation& rows, const ConstFloats& weight, const nb::object& bias,
                    const Activation& out, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  require(rows.ndim() == 3 && out.ndim() == 3 && rows.shape(0) == out.shape(0) + 2 && rows.shape(1) == out.shape(1) &&
              rows.shape(2) == out.shape(2),
          "rows must be (n + 2, width, channels) and out (n, width, channels)");
  const auto channels = static_cast<int64_t>(rows.shape(2));
  require_size(weight, 9 * channels, "weight");
  const Storage storage = storage_of(rows, "rows");
  require(storage_of(out, "out") == storage, "out must have the dtype of rows");
  const float* shift = nullptr;
  if (!bias.is_none()) {
    const auto array = nb::cast<ConstFloats>(bias);
    require_size(array, channels, "bias");
    shift = array.data();
  }
  const nb::gil_scoped_release release;
  kernels.depthwise_silu(rows.data(), out.data(), storage, weight.data(), shift, static_cast<int64_t>(out.shape(0)),
                         static_cast<int64_t>(out.shape(1)), channels);
}

void silu_in_place(const Activation& x, const std::string& isa) {
  choose(isa).silu(x.data(), storage_of(x, "x"), static_cast<int64_t>(x.size()));
}

void exp2_floats(const ConstFloats& x, const Floats& out, bool rough, const std::string& isa) {
  require_size(out, static_cast<int64_t>(x.size()), "out");
  choose(isa).exp2(x.data(), out.data(), static_cast<int64_t>(x.size()), rough);
}

void softplus2_floats(const ConstFloats& x, const Floats& out, bool rough, const std::string& isa) {
  require_size(out, static_cast<int64_t>(x.size()), "out");
  choose(isa).softplus2(x.data(), out.data(), static_cast<int64_t>(x.size()), rough);
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "C++ kernels of wsi_vmamba.ops; call them through wsi_vmamba.ops.cpu.";
  m.attr("BLOCK") = kBlock;
  m.def("instruction_sets", &instruction_sets, "Instruction sets compiled in and offered here, best first.");
  m.def("poison_scratch", [](bool on) { poison_scratch = on; }, "on"_a, "Fill new scratch with NaN (for tests).");
  m.def("forward", &forward, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "y"_a, "threads"_a,
        "isa"_a = "", Release());
  m.def("backward_ranges", &backward_ranges, "channels"_a, "images"_a, "threads"_a);
  m.def("backward", &backward, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "grad_y"_a, "grad_u"_a,
        "grad_proj"_a, "grad_weight"_a, "grad_bias"_a, "grad_rate"_a, "grad_skip"_a, "threads"_a, "isa"_a = "",
        Release());
  m.def("walk", &walk, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "y"_a, "threads"_a, "isa"_a = "",
        Release());
  m.def("walk_gradients", &walk_gradients, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "grad_y"_a,
        "grad_u"_a, "grad_proj"_a, "grad_weight"_a, "grad_bias"_a, "grad_rate"_a, "grad_skip"_a, "threads"_a,
        "isa"_a = "", Release());
  add_training(m);
  add_tokens(m);
  m.def("summarize_strip", &summarize_strip, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "decays"_a,
        "states"_a, "forward_slot"_a, "backward_slot"_a, "fresh"_a, "row_forward"_a, "isa"_a = "");
  m.def("apply_strip", &apply_strip, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "states"_a,
        "forward_slot"_a, "backward_slot"_a, "y"_a, "isa"_a = "");
  m.def("summarize_adjoint_strip", &summarize_adjoint_strip, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a,
        "grad_y"_a, "decays"_a, "states"_a, "slot"_a, "threads"_a, "isa"_a = "");
  m.def("backward_strip", &backward_strip, "u"_a, "proj"_a, "weight"_a, "bias"_a, "rate"_a, "skip"_a, "grad_y"_a,
        "entering"_a, "leaving"_a, "slot"_a, "grad_u"_a, "grad_proj"_a, "grad_weights"_a, "threads"_a, "isa"_a = "");
  m.def("combine", &combine, "decay"_a, "state"_a, "backward"_a, "threads"_a, "isa"_a = "", Release());
  m.def("layer_norm", &layer_norm, "x"_a, "out"_a, "gate"_a.none(), "weight"_a, "bias"_a, "eps"_a, "isa"_a = "");
  m.def("depthwise_silu", &depthwise_silu, "rows"_a, "weight"_a, "bias"_a.none(), "out"_a, "isa"_a = "");
  m.def("silu_in_place", &silu_in_place, "x"_a, "isa"_a = "", Release());
  m.def("exp2", &exp2_floats, "x"_a, "out"_a, "rough"_a = false, "isa"_a = "");
  m.def("softplus2", &softplus2_floats, "x"_a, "out"_a, "rough"_a = false, "isa"_a = "");
}
