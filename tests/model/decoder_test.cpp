// SPDX-License-Identifier: Apache-2.0
// A model that is given a text token by token says of the next one what it says in training's
// forward: with every attention that can be causal, on every device, with a cache or without.
#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "core/copy.h"
#include "core/error.h"
#include "tests/model/model_run.h"
#include "tests/support/attentions.h"
#include "tests/support/devices.h"

namespace stipple::model {
namespace {

using test::ModelCase;

constexpr int64_t kDecoderLength = 45;
constexpr int64_t kFixedLength = 23;  // of blocks of 4
constexpr int64_t kLongLength = 150;  // on the CPU only: elsewhere it takes minutes

ModelCase case_of(AttentionKind kind, Positions positions) {
  ModelCase c = test::small_language_model(kind);
  c.config.positions = positions;
  c.task.max_length = 70;
  c.batch = 1;
  c.length = kDecoderLength;
  return c;
}

std::vector<ModelCase> every_decoder_case() {
  std::vector<ModelCase> cases;
  for (const AttentionKind kind : test::every_causal_attention()) {
    for (const Positions positions :
         {Positions::kLearned, Positions::kSinusoidal, Positions::kRotary})
      cases.push_back(case_of(kind, positions));
  }
  ModelCase entmax = case_of(AttentionKind::kEntmax, Positions::kRotary);
  entmax.attention.entmax.learn_alpha = true;
  entmax.attention.entmax.temperature = EntmaxTemperature::kLearned;
  cases.push_back(entmax);
  return cases;
}

/// Combiner by blocks in all its ways, each decoded until it is full: the cache's last row is used.
std::vector<ModelCase> every_fixed_case() {
  ModelCase c = case_of(AttentionKind::kCombiner, Positions::kRotary);
  c.length = c.task.max_length = kFixedLength;
  const CombinerConfig usual = c.attention.combiner;
  std::vector<ModelCase> cases;
  for (int pool = 0; pool <= static_cast<int>(CombinerPool::kDeepsetSum); ++pool) {
    c.attention.combiner.pool = static_cast<CombinerPool>(pool);
    cases.push_back(c);
  }
  for (const CombinerMassBias bias : {CombinerMassBias::kLogSize, CombinerMassBias::kLearned}) {
    c.attention.combiner = usual;
    c.attention.combiner.mass_bias = bias;
    cases.push_back(c);
    c.attention.combiner.shift_odd_layers = true;
    c.attention.combiner.global_tokens = 3;
    cases.push_back(c);
  }
  for (const auto& [block, globals] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 0}, {kFixedLength - 1, 1}, {kFixedLength, 0}, {5000, 2}, {8, kFixedLength}}) {
    c.attention.combiner = usual;
    c.attention.combiner.block = block;
    c.attention.combiner.global_tokens = globals;
    cases.push_back(c);
  }
  c.attention.combiner = usual;
  c.attention.combiner.block = 32;
  c.config.width = 64;
  c.length = c.task.max_length = kLongLength;
  cases.push_back(c);
  return cases;
}

/// Far from the initial values, of which some are 0 or 1: what a cache leaves out would not show.
void disturb(ParameterStore& store, const Stream& stream) {
  std::vector<float> values(static_cast<size_t>(store.numel()));
  download(stream, std::span(values), View<const float>(store.values()));
  std::mt19937 generator(11);
  std::normal_distribution<float> normal(0.0f, 0.3f);
  for (float& value : values) value += normal(generator);
  upload(stream, store.values(), values);
}

/// A model on a device, with the initial values of ModelRun.
struct Living {
  Living(const ModelCase& c, Device device, int threads = 1)
      : stream(device, {.threads = threads}),
        facts(c.config.layers),
        model(store, facts, c.config, c.attention, c.task),
        vocabulary(c.task.vocab_size) {
    store.allocate(device);
    store.initialize(stream, 3);
  }
  Decoder decoder(int64_t longest) {
    return Decoder(model, facts, stream, {.longest = longest, .vocabulary = vocabulary});
  }

  Stream stream;
  ParameterStore store;
  FactTable facts;
  Model model;
  int64_t vocabulary;
};

/// -log of the probability of `label`.
double loss_of(std::span<const float> logits, int32_t label) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - static_cast<double>(logits[static_cast<size_t>(label)]);
}

/// Of the whole sequence's forward, the loss of one label at each position.
std::vector<double> losses_of_forward(test::ModelRun& run, const test::LeafArrays& leaf,
                                      const ModelCase& c) {
  std::vector<double> losses;
  for (int64_t i = 0; i < c.length; ++i) {
    test::LeafArrays only = leaf;
    only.labels.fill(-1);
    only.labels[i] = static_cast<int32_t>(i % c.task.vocab_size);
    run.forward(only, /*training=*/false);
    losses.push_back(run.loss_sum);
  }
  return losses;
}

/// Twice, so that nothing stays of the first sequence.
void expect_same_as_forward(const ModelCase& c) {
  test::ModelRun run(c);
  disturb(run.store, Stream(kCpuDevice));
  test::LeafArrays leaf(c.task, c.batch, c.length);
  leaf.mask.fill(1);
  const std::vector<double> expected = losses_of_forward(run, leaf, c);
  for (const Device device : test::test_devices()) {
    SCOPED_TRACE(test::name_of(c.attention.kind) + " on " + test::name_of(device));
    if (device != kCpuDevice && c.length == kLongLength) continue;
    Living living(c, device);
    disturb(living.store, living.stream);
    Decoder decoder = living.decoder(c.task.max_length);
    for (int round = 0; round < 2; ++round) {
      for (int64_t i = 0; i < c.length; ++i) {
        const auto logits = decoder.next(leaf.ids[i]);
        const double wanted = expected[static_cast<size_t>(i)];
        ASSERT_NEAR(loss_of(logits, static_cast<int32_t>(i % c.task.vocab_size)), wanted,
                    1e-5 * std::max(1.0, wanted))
            << "position " << i << ", round " << round;
      }
      decoder.restart();
    }
  }
}

TEST(Decoder, SaysAtEveryPositionWhatTheForwardOfTrainingSays) {
  for (const ModelCase& c : every_decoder_case()) expect_same_as_forward(c);
}

TEST(Decoder, SaysSoWithEveryKindOfBlocks) {
  for (const ModelCase& c : every_fixed_case()) {
    const CombinerConfig& combiner = c.attention.combiner;
    SCOPED_TRACE(testing::Message() << "pool " << static_cast<int>(combiner.pool) << ", mass bias "
                                    << static_cast<int>(combiner.mass_bias) << ", block "
                                    << combiner.block << ", globals " << combiner.global_tokens);
    expect_same_as_forward(c);
  }
}

TEST(Decoder, SoftmaxEntmaxAndBlocksKeepACache) {
  const auto has_cache = [](const ModelCase& c) {
    return Living(c, kCpuDevice).decoder(9).has_cache();
  };
  ModelCase combiner = case_of(AttentionKind::kCombiner, Positions::kRotary);
  EXPECT_TRUE(has_cache(case_of(AttentionKind::kSoftmax, Positions::kRotary)));
  EXPECT_TRUE(has_cache(case_of(AttentionKind::kEntmax, Positions::kRotary)));
  EXPECT_TRUE(has_cache(combiner));
  combiner.attention.combiner.variant = CombinerVariant::kLogsparse;
  EXPECT_FALSE(has_cache(combiner));
}

TEST(Decoder, TakesAsManyTokensAsItHasRoomFor) {
  for (const AttentionKind kind : test::every_causal_attention()) {
    Living living(case_of(kind, Positions::kLearned), kCpuDevice, /*threads=*/2);
    Decoder decoder = living.decoder(7);
    for (int32_t i = 0; i < 7; ++i) {
      EXPECT_FALSE(decoder.is_full());
      decoder.next(i);
    }
    EXPECT_TRUE(decoder.is_full());
    EXPECT_THROW(decoder.next(1), Error);
    decoder.restart();
    EXPECT_EQ(decoder.length(), 0);
    decoder.next(1);
  }
}

}  // namespace
}  // namespace stipple::model
