// The part of the Python module `_cpu` for training: the operators of train.hpp over batches, on several threads.
//
// Tokens and images are dealt out to shares whose number depends on the size alone. Each share adds up its part of the
// gradients of the weights, and the shares are added in order, so results do not depend on the number of threads.
#include "module.hpp"

namespace {

// Tokens in a share, at least, and the most shares.
constexpr int64_t kShareTokens = 512, kShares = 16;

struct Shares {
  int64_t items, count;

  Shares(int64_t items_in_all, int64_t least) : items(items_in_all), count(std::clamp<int64_t>(items / least, 1, kShares)) {}
  int64_t begin(int64_t share) const { return share * items / count; }
};

int64_t bytes_of(Storage storage) { return storage == Storage::float32 ? 4 : 2; }

const char* at(const void* base, Storage storage, int64_t place) {
  return base == nullptr ? nullptr : static_cast<const char*>(base) + place * bytes_of(storage);
}

char* at(void* base, Storage storage, int64_t place) {
  return base == nullptr ? nullptr : static_cast<char*>(base) + place * bytes_of(storage);
}

// Tokens of `channels` numbers; channels are whole blocks.
struct Tokens {
  int64_t count, channels;

  template <class Array>
  Tokens(const Array& x, int64_t channels_in) : channels(channels_in) {
    require(channels >= kBlock && channels % kBlock == 0, "training needs whole blocks of 16 channels");
    require(static_cast<int64_t>(x.size()) % channels == 0, "the array does not hold whole tokens");
    count = static_cast<int64_t>(x.size()) / channels;
  }
};

template <class Array>
void require_same(const Array& array, int64_t size, Storage storage, const char* name) {
  require_size(array, size, name);
  require(storage_of(array, name) == storage, std::string(name) + " has another dtype than what it belongs to");
}

// Sums of several shares, added to where they belong in the end.
class ShareSums {
 public:
  ShareSums(int64_t shares, std::initializer_list<std::pair<float*, int64_t>> targets) : targets_(targets), width_(0) {
    for (const auto& [target, size] : targets_) width_ += size;
    memory_ = scratch_floats(shares * width_);
    std::fill_n(memory_.get(), shares * width_, 0.0f);
    shares_ = shares;
  }

  // Where a share adds up the numbers of target `which`; null where there is none.
  float* of(int64_t share, size_t which) const {
    float* place = memory_.get() + share * width_;
    for (size_t i = 0; i < which; ++i) place += targets_[i].second;
    return targets_[which].first == nullptr ? nullptr : place;
  }

  void finish() const {
    for (size_t which = 0; which < targets_.size(); ++which) {
      const auto [target, size] = targets_[which];
      for (int64_t share = 0; target != nullptr && share < shares_; ++share) {
        const float* from = of(share, which);
        for (int64_t i = 0; i < size; ++i) target[i] += from[i];
      }
    }
  }

 private:
  std::vector<std::pair<float*, int64_t>> targets_;
  int64_t width_, shares_;
  std::unique_ptr<float[], Free> memory_;
};

void train_norm(const ConstActivation& x, const Activation& out, const ConstFloats& weight, const ConstFloats& bias,
                float eps, const Floats& moments, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Tokens tokens(x, static_cast<int64_t>(weight.size()));
  const Storage storage = storage_of(x, "x");
  require_size(bias, tokens.channels, "bias");
  require_size(moments, 2 * tokens.count, "moments");
  require_same(out, static_cast<int64_t>(x.size()), storage, "out");
  const Shares shares(tokens.count, kShareTokens);
  parallel_for(shares.count, threads, [&](int64_t share) {
    const int64_t begin = shares.begin(share), place = begin * tokens.channels;
    kernels.train_norm(at(x.data(), storage, place), at(out.data(), storage, place), storage, weight.data(),
                       bias.data(), eps, moments.data() + begin, moments.data() + tokens.count + begin,
                       shares.begin(share + 1) - begin, tokens.channels);
  });
}

void train_norm_gradients(const ConstActivation& x, const ConstActivation& dy, const std::optional<ConstActivation>& base,
                          const ConstFloats& weight, const ConstFloats& bias, const Floats& moments, const Activation& dx,
                          const std::optional<Activation>& normed, const Floats& dweight, const Floats& dbias,
                          int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Tokens tokens(x, static_cast<int64_t>(weight.size()));
  const auto size = static_cast<int64_t>(x.size());
  const Storage storage = storage_of(x, "x");
  require_size(bias, tokens.channels, "bias");
  require_size(moments, 2 * tokens.count, "moments");
  require_size(dweight, tokens.channels, "dweight");
  require_size(dbias, tokens.channels, "dbias");
  require_same(dy, size, storage, "dy");
  require_same(dx, size, storage, "dx");
  if (base) require_same(*base, size, storage, "base");
  if (normed) require_same(*normed, size, storage, "normed");
  const Shares shares(tokens.count, kShareTokens);
  const ShareSums sums(shares.count, {{dweight.data(), tokens.channels}, {dbias.data(), tokens.channels}});
  parallel_for(shares.count, threads, [&](int64_t share) {
    const int64_t begin = shares.begin(share), place = begin * tokens.channels;
    kernels.train_norm_gradients(at(x.data(), storage, place), at(dy.data(), storage, place),
                                 at(base ? base->data() : nullptr, storage, place), storage, weight.data(),
                                 bias.data(), moments.data() + begin, moments.data() + tokens.count + begin,
                                 at(dx.data(), storage, place),
                                 at(normed ? normed->data() : nullptr, storage, place),
                                 sums.of(share, 0), sums.of(share, 1), shares.begin(share + 1) - begin,
                                 tokens.channels);
  });
  sums.finish();
}

void gelu(const ConstActivation& x, const Activation& out, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Storage storage = storage_of(x, "x");
  const Tokens tokens(x, kBlock);
  require_same(out, static_cast<int64_t>(x.size()), storage, "out");
  const Shares shares(tokens.count, kShareTokens);
  parallel_for(shares.count, threads, [&](int64_t share) {
    const int64_t begin = shares.begin(share) * kBlock;
    kernels.gelu(at(x.data(), storage, begin), at(out.data(), storage, begin), storage,
                 shares.begin(share + 1) * kBlock - begin);
  });
}

void gelu_gradients(const ConstActivation& x, const ConstActivation& dy, const Activation& dx,
                    const std::optional<Activation>& out, const Floats& sums, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Storage storage = storage_of(x, "x");
  const auto size = static_cast<int64_t>(x.size());
  const Tokens tokens(x, static_cast<int64_t>(sums.size()));
  require_same(dy, size, storage, "dy");
  require_same(dx, size, storage, "dx");
  if (out) require_same(*out, size, storage, "out");
  const Shares shares(tokens.count, kShareTokens);
  const ShareSums added(shares.count, {{sums.data(), tokens.channels}});
  parallel_for(shares.count, threads, [&](int64_t share) {
    const int64_t begin = shares.begin(share), place = begin * tokens.channels;
    kernels.gelu_gradients(at(x.data(), storage, place), at(dy.data(), storage, place), at(dx.data(), storage, place),
                           at(out ? out->data() : nullptr, storage, place), storage, added.of(share, 0),
                           shares.begin(share + 1) - begin, tokens.channels);
  });
  added.finish();
}

void sum_tokens(const ConstActivation& x, const Floats& sums, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Storage storage = storage_of(x, "x");
  const Tokens tokens(x, static_cast<int64_t>(sums.size()));
  const Shares shares(tokens.count, kShareTokens);
  const ShareSums added(shares.count, {{sums.data(), tokens.channels}});
  parallel_for(shares.count, threads, [&](int64_t share) {
    const int64_t begin = shares.begin(share);
    kernels.sum_tokens(at(x.data(), storage, begin * tokens.channels), storage, added.of(share, 0),
                       shares.begin(share + 1) - begin, tokens.channels);
  });
  added.finish();
}

// Images (images, 3, height, width) of the stem and its weights; taps are (27, channels).
struct StemCall {
  int64_t images, height, width;
  StemWeights weights;
  Storage storage;

  StemCall(const ConstFloats& x, const ConstFloats& taps, const ConstFloats& bias, const ConstFloats& norm_weight,
           const ConstFloats& norm_bias, float eps, Storage map_storage)
      : weights{taps.data(), bias.data(), norm_weight.data(), norm_bias.data(), eps,
                static_cast<int64_t>(bias.size())},
        storage(map_storage) {
    require(x.ndim() == 4 && x.shape(1) == 3, "images must be (images, 3, height, width)");
    images = static_cast<int64_t>(x.shape(0));
    height = static_cast<int64_t>(x.shape(2));
    width = static_cast<int64_t>(x.shape(3));
    require(images >= 1 && height >= 1 && width >= 1, "images must hold at least one pixel");
    require(weights.channels >= kBlock && weights.channels % kBlock == 0, "training needs whole blocks of 16 channels");
    require_size(taps, 27 * weights.channels, "taps");
    require_size(norm_weight, weights.channels, "norm_weight");
    require_size(norm_bias, weights.channels, "norm_bias");
  }

  int64_t pixels() const { return 3 * height * width; }
  int64_t map() const { return (height + 1) / 2 * ((width + 1) / 2) * weights.channels; }
};

void stem(const ConstFloats& images, const ConstFloats& taps, const ConstFloats& bias, const ConstFloats& norm_weight,
          const ConstFloats& norm_bias, float eps, const Activation& out, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StemCall call(images, taps, bias, norm_weight, norm_bias, eps, storage_of(out, "out"));
  require_size(out, call.images * call.map(), "out");
  parallel_for(call.images, threads, [&](int64_t image) {
    const auto scratch = scratch_floats(kernels.stem_scratch(call.height, call.width, call.weights.channels));
    kernels.stem(images.data() + image * call.pixels(), call.weights, at(out.data(), call.storage, image * call.map()),
                 call.storage, scratch.get(), call.height, call.width);
  });
}

void stem_gradients(const ConstFloats& images, const ConstFloats& taps, const ConstFloats& bias,
                    const ConstFloats& norm_weight, const ConstFloats& norm_bias, float eps, const ConstActivation& dy,
                    const Floats& dtaps, const Floats& dbias, const Floats& dnorm_weight, const Floats& dnorm_bias,
                    int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const StemCall call(images, taps, bias, norm_weight, norm_bias, eps, storage_of(dy, "dy"));
  const int64_t channels = call.weights.channels;
  require_size(dy, call.images * call.map(), "dy");
  require_size(dtaps, 27 * channels, "dtaps");
  require_size(dbias, channels, "dbias");
  require_size(dnorm_weight, channels, "dnorm_weight");
  require_size(dnorm_bias, channels, "dnorm_bias");
  const Shares shares(call.images, 1);
  const ShareSums sums(shares.count, {{dtaps.data(), 27 * channels},
                                      {dbias.data(), channels},
                                      {dnorm_weight.data(), channels},
                                      {dnorm_bias.data(), channels}});
  parallel_for(shares.count, threads, [&](int64_t share) {
    const auto scratch = scratch_floats(kernels.stem_scratch(call.height, call.width, channels));
    const StemGradients grad{sums.of(share, 0), sums.of(share, 1), sums.of(share, 2), sums.of(share, 3)};
    for (int64_t image = shares.begin(share); image < shares.begin(share + 1); ++image) {
      kernels.stem_gradients(images.data() + image * call.pixels(), call.weights,
                             at(dy.data(), call.storage, image * call.map()), call.storage, grad, scratch.get(),
                             call.height, call.width);
    }
  });
  sums.finish();
}

// A batch of maps (images, height, width, channels).
struct Maps {
  int64_t images, height, width, channels;
  Storage storage;

  explicit Maps(const ConstActivation& x) : storage(storage_of(x, "x")) {
    require(x.ndim() == 4, "x must be (images, height, width, channels)");
    images = static_cast<int64_t>(x.shape(0));
    height = static_cast<int64_t>(x.shape(1));
    width = static_cast<int64_t>(x.shape(2));
    channels = static_cast<int64_t>(x.shape(3));
    require(images >= 1 && height >= 1 && width >= 1, "x must hold at least one token");
    require(channels >= kBlock && channels % kBlock == 0, "training needs whole blocks of 16 channels");
  }

  int64_t size() const { return height * width * channels; }
};

void train_depthwise(const ConstActivation& x, const Activation& out, const ConstFloats& weight,
                     const std::optional<ConstFloats>& bias, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Maps maps(x);
  require_same(out, static_cast<int64_t>(x.size()), maps.storage, "out");
  require_size(weight, 9 * maps.channels, "weight");
  if (bias) require_size(*bias, maps.channels, "bias");
  const std::vector<float> zeros(static_cast<size_t>(maps.width * maps.channels), 0.0f);
  parallel_for(maps.images, threads, [&](int64_t image) {
    const int64_t place = image * maps.size();
    kernels.train_depthwise(at(x.data(), maps.storage, place), at(out.data(), maps.storage, place), maps.storage,
                            weight.data(), bias ? bias->data() : nullptr, zeros.data(), maps.height, maps.width,
                            maps.channels);
  });
}

void train_depthwise_gradients(const ConstActivation& x, const ConstActivation& dy, const Activation& dx,
                               const ConstFloats& weight, const std::optional<ConstFloats>& bias, const Floats& dweight,
                               const std::optional<Floats>& dbias, int64_t threads, const std::string& isa) {
  const Kernels& kernels = choose(isa);
  const Maps maps(x);
  const auto size = static_cast<int64_t>(x.size());
  require_same(dy, size, maps.storage, "dy");
  require_same(dx, size, maps.storage, "dx");
  require_size(weight, 9 * maps.channels, "weight");
  require_size(dweight, 9 * maps.channels, "dweight");
  if (bias) require_size(*bias, maps.channels, "bias");
  if (dbias) require_size(*dbias, maps.channels, "dbias");
  const std::vector<float> zeros(static_cast<size_t>(maps.width * maps.channels), 0.0f);
  const Shares shares(maps.images, 1);
  const ShareSums sums(shares.count, {{dweight.data(), 9 * maps.channels},
                                      {dbias ? dbias->data() : nullptr, maps.channels}});
  parallel_for(shares.count, threads, [&](int64_t share) {
    const auto inner = scratch_floats(maps.size());
    for (int64_t image = shares.begin(share); image < shares.begin(share + 1); ++image) {
      const int64_t place = image * maps.size();
      kernels.train_depthwise_gradients(at(x.data(), maps.storage, place), at(dy.data(), maps.storage, place),
                                        at(dx.data(), maps.storage, place), maps.storage, weight.data(),
                                        bias ? bias->data() : nullptr, sums.of(share, 0), sums.of(share, 1),
                                        zeros.data(), inner.get(), maps.height, maps.width, maps.channels);
    }
  });
  sums.finish();
}

}  // namespace

void add_training(nb::module_& m) {
  m.def("train_norm", &train_norm, "x"_a, "out"_a, "weight"_a, "bias"_a, "eps"_a, "moments"_a, "threads"_a,
        "isa"_a = "", Release());
  m.def("stem", &stem, "images"_a, "taps"_a, "bias"_a, "norm_weight"_a, "norm_bias"_a, "eps"_a, "out"_a, "threads"_a,
        "isa"_a = "", Release());
  m.def("stem_gradients", &stem_gradients, "images"_a, "taps"_a, "bias"_a, "norm_weight"_a, "norm_bias"_a, "eps"_a,
        "dy"_a, "dtaps"_a, "dbias"_a, "dnorm_weight"_a, "dnorm_bias"_a, "threads"_a, "isa"_a = "", Release());
  m.def("train_norm_gradients", &train_norm_gradients, "x"_a, "dy"_a, "base"_a.none(), "weight"_a, "bias"_a,
        "moments"_a, "dx"_a, "normed"_a.none(), "dweight"_a, "dbias"_a, "threads"_a, "isa"_a = "", Release());
  m.def("gelu", &gelu, "x"_a, "out"_a, "threads"_a, "isa"_a = "", Release());
  m.def("gelu_gradients", &gelu_gradients, "x"_a, "dy"_a, "dx"_a, "out"_a.none(), "sums"_a, "threads"_a, "isa"_a = "",
        Release());
  m.def("sum_tokens", &sum_tokens, "x"_a, "sums"_a, "threads"_a, "isa"_a = "", Release());
  m.def("train_depthwise", &train_depthwise, "x"_a, "out"_a, "weight"_a, "bias"_a.none(), "threads"_a, "isa"_a = "",
        Release());
  m.def("train_depthwise_gradients", &train_depthwise_gradients, "x"_a, "dy"_a, "dx"_a, "weight"_a, "bias"_a.none(),
        "dweight"_a, "dbias"_a.none(), "threads"_a, "isa"_a = "", Release());
}
