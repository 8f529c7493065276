// SPDX-License-Identifier: Apache-2.0
// What the encoder owes an attention that it does not know: the input of its sub-layer where it
// asks, and a place for the gradient by it.
#include "model/encoder.h"

#include <cstring>

#include "core/error.h"
#include "kernels/activation.h"
#include "kernels/heads.h"
#include "model/planning_run.h"
#include "tests/model/slope.h"
#include "tests/support/arrays.h"

namespace stipple::model {
namespace {

using test::Array;

/// Softmax attention whose values also see the sub-layer's input, by a projection of its own.
class InputReader final : public Attention {
 public:
  struct Saved final : Attention::Saved {
    Linear::Saved projection;
    RealView values;  // [B, H, N, D]
    std::unique_ptr<Attention::Saved> softmax;
  };

  InputReader(ParameterStore& store, FactTable& facts, const AttentionShape& shape)
      : projection_(store, shape.name + ".projection", shape.num_heads * shape.head_dim,
                    shape.num_heads * shape.head_dim),
        softmax_(
            make_attention({.kind = AttentionKind::kSoftmax, .dropout = 0}, store, facts, shape)) {}

  std::unique_ptr<Attention::Saved> make_saved() const override {
    auto saved = std::make_unique<Saved>();
    saved->softmax = softmax_->make_saved();
    return saved;
  }
  bool reads_input() const override { return true; }

 private:
  static AttentionInputs with_values(AttentionInputs in, ConstRealView values) {
    in.v = values;
    return in;
  }

  void do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                  Attention::Saved& base) const override {
    Saved& saved = static_cast<Saved&>(base);
    saved.values = ctx.saved.alloc(ctx.precision(), in.v.shape);
    Arena::Scope scope(ctx.scratch);
    const RealView projected = ctx.scratch.alloc(ctx.precision(), in.x.shape);
    projection_.forward(ctx, in.x, projected, saved.projection);
    kernels::split_heads(ctx.stream, {.y = saved.values, .x = projected});
    kernels::add(ctx.stream, {.y = saved.values, .a = saved.values, .b = in.v});
    softmax_->forward(ctx, with_values(in, saved.values), out, *saved.softmax);
  }

  void do_backward(Context& ctx, const AttentionInputs& in, ConstRealView out, ConstRealView dout,
                   const Attention::Saved& base, const AttentionGrads& grads) const override {
    const Saved& saved = static_cast<const Saved&>(base);
    softmax_->backward(ctx, with_values(in, saved.values), out, dout, *saved.softmax, grads);
    Arena::Scope scope(ctx.scratch);
    const RealView dprojected = ctx.scratch.alloc(ctx.precision(), in.x.shape);
    const RealView branch = ctx.scratch.alloc(ctx.precision(), in.x.shape);
    kernels::merge_heads(ctx.stream, {.y = dprojected, .x = grads.dv});
    projection_.backward(ctx, saved.projection, dprojected, branch);
    kernels::add(ctx.stream, {.y = grads.dx, .a = grads.dx, .b = branch});
  }

  Linear projection_;
  std::unique_ptr<Attention> softmax_;
};

/// Asks for nothing, and is given nothing.
class Bystander final : public Attention {
 public:
  struct Saved final : Attention::Saved {};
  std::unique_ptr<Attention::Saved> make_saved() const override {
    return std::make_unique<Saved>();
  }

 private:
  void do_forward(Context& ctx, const AttentionInputs& in, RealView out,
                  Attention::Saved&) const override {
    EXPECT_TRUE(in.x.empty());
    kernels::add(ctx.stream, {.y = out, .a = in.v, .b = in.v});
  }
  void do_backward(Context&, const AttentionInputs&, ConstRealView, ConstRealView,
                   const Attention::Saved&, const AttentionGrads& grads) const override {
    EXPECT_TRUE(grads.dx.empty());
  }
};

/// Two blocks around an attention. What is differentiated is the sum of `weights` times y.
class EncoderRun {
 public:
  using Make = std::unique_ptr<Attention> (*)(ParameterStore&, FactTable&, const AttentionShape&);

  EncoderRun(bool rotary, Make make)
      : encoder_(store, config(rotary),
                 [&](const AttentionShape& shape) { return make(store, facts_, shape); }),
        saved_(encoder_.make_saved()) {
    mask_.fill(1);
    mask_[mask_.numel() - 1] = mask_[2] = 0;
    samples_[1] = 7;
    store.allocate(kCpuDevice);
    store.initialize(stream_, 3);
    gradients_.resize(static_cast<size_t>(store.numel()));
    store.bind_grads(grads());
    plan();
  }

  double forward() {
    saved_arena_->rewind(0);
    Context ctx = context();
    encoder_.forward(ctx, input(), x, y_, saved_);
    double loss = 0;
    for (int64_t i = 0; i < y_.numel(); ++i) loss += static_cast<double>(weights_[i] * y_[i]);
    return loss;
  }
  /// Also sets dx.
  void backward() {
    std::fill(gradients_.begin(), gradients_.end(), 0.0f);
    dx = weights_;
    Context ctx = context();
    encoder_.backward(ctx, input(), saved_, dx);
  }
  View<float> grads() { return {gradients_.data(), {store.numel()}}; }

  ParameterStore store;
  Array<float> x = test::random_normal({kBatch, kLength, kWidth}, 1), dx;

 private:
  static constexpr int64_t kBatch = 2, kLength = 6, kWidth = 8;

  static EncoderConfig config(bool rotary) {
    return {.layers = 2,
            .width = kWidth,
            .heads = 2,
            .feedforward = 12,
            .max_length = kLength,
            .rotary = rotary};
  }
  Input input() const {
    Input input;
    input.mask = mask_;
    input.samples = samples_;
    return input;
  }
  Context context() {
    return {.stream = stream_,
            .saved = *saved_arena_,
            .scratch = *scratch_arena_,
            .rng = {},
            .observer = nobody_,
            .facts = {facts_, nullptr}};
  }
  void plan() {
    PlanningRun run(DeviceType::kCpu, {}, facts_);
    Context ctx = run.begin(true);
    Input shapes;
    shapes.mask.shape = mask_.shape();
    shapes.samples.shape = samples_.shape();
    const View<float> nowhere{nullptr, x.shape()};
    encoder_.forward(ctx, shapes, nowhere, nowhere, saved_);
    encoder_.backward(ctx, shapes, saved_, nowhere);
    saved_arena_ = std::make_unique<Arena>("saved", kCpuDevice, run.saved_bytes());
    scratch_arena_ = std::make_unique<Arena>("scratch", kCpuDevice, run.scratch_bytes());
  }

  Stream stream_{kCpuDevice};
  Observer nobody_;
  FactTable facts_{2};
  Encoder encoder_;
  Encoder::Saved saved_;
  Array<uint8_t> mask_{{kBatch, kLength}};
  Array<uint32_t> samples_{{kBatch}};
  Array<float> y_{x.shape()}, weights_ = test::random_normal(x.shape(), 2);
  std::vector<float> gradients_;
  std::unique_ptr<Arena> saved_arena_, scratch_arena_;
};

std::unique_ptr<Attention> make_reader(ParameterStore& store, FactTable& facts,
                                       const AttentionShape& shape) {
  return std::make_unique<InputReader>(store, facts, shape);
}

std::unique_ptr<Attention> make_bystander(ParameterStore&, FactTable&, const AttentionShape&) {
  return std::make_unique<Bystander>();
}

void expect_slopes(EncoderRun& run, View<float> at, View<const float> gradient,
                   const std::string& name) {
  double scale = 0, worst = 0;
  const auto apart = static_cast<int64_t>(test::slopes_apart(at.span().size()));
  for (int64_t i = 0; i < at.numel(); i += apart) {
    const double expected = test::slope(at[i], [&] { return run.forward(); });
    scale = std::max(scale, std::abs(expected));
    worst = std::max(worst, std::abs(static_cast<double>(gradient[i]) - expected));
  }
  EXPECT_LE(worst, 2e-3 * scale + 3e-4) << name;
  // A bias of keys moves all scores of a row alike.
  EXPECT_TRUE(scale > 0.01 || name.ends_with("key.bias")) << name << " " << scale;
}

TEST(Encoder, GradientsOfAnAttentionThatReadsItsInputAreSlopes) {
  for (const bool rotary : {false, true}) {
    SCOPED_TRACE(rotary ? "rotary" : "no rotation");
    EncoderRun run(rotary, &make_reader);
    run.forward();
    run.backward();
    const Array<float> dx = run.dx;
    expect_slopes(run, run.x, dx, "x");
    for (const ParameterStore::Entry& entry : run.store.entries()) {
      const auto id = *run.store.find(entry.name);
      expect_slopes(run, run.store.value(id), run.store.grad(id), entry.name);
    }
  }
}

TEST(Encoder, GivesNoInputToAnAttentionThatDoesNotAsk) {
  EncoderRun run(false, &make_bystander);
  run.forward();
  run.backward();
}

TEST(Encoder, AnAttentionWantsItsInputInTheShapeOfTheSubLayer) {
  ParameterStore store;
  FactTable facts(1);
  const auto attention =
      make_reader(store, facts, {.num_heads = 2, .head_dim = 4, .name = "attention"});
  const auto saved = attention->make_saved();
  store.allocate(kCpuDevice);
  std::vector<float> gradients(static_cast<size_t>(store.numel()));
  store.bind_grads({gradients.data(), {store.numel()}});
  PlanningRun run(DeviceType::kCpu, {}, facts);
  const View<float> heads{nullptr, {3, 2, 5, 4}}, x{nullptr, {3, 5, 8}}, turned{nullptr, {3, 8, 5}};
  AttentionInputs in{
      .q = heads, .k = heads, .v = heads, .mask = {nullptr, {3, 5}}, .samples = {nullptr, {3}}};
  for (const ConstRealView& wrong : {ConstRealView{}, ConstRealView(turned)}) {
    in.x = wrong;
    Context ctx = run.begin(true);
    EXPECT_THROW(attention->forward(ctx, in, heads, *saved), ShapeError);
  }
  in.x = x;
  Context ctx = run.begin(true);
  attention->forward(ctx, in, heads, *saved);
  AttentionGrads grads{.dq = heads, .dk = heads, .dv = heads};
  EXPECT_THROW(attention->backward(ctx, in, heads, heads, *saved, grads), ShapeError);
  grads.dx = x;
  attention->backward(ctx, in, heads, heads, *saved, grads);
}

}  // namespace
}  // namespace stipple::model
