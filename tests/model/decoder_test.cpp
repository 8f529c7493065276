// SPDX-License-Identifier: Apache-2.0
// A model that is given a text token by token says of the next one what it says in training's
// forward: with every attention that can be causal, on every device, with a cache or without.
#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "tests/model/model_run.h"
#include "tests/support/attentions.h"
#include "tests/support/devices.h"

namespace stipple::model {
namespace {

using test::ModelCase;

constexpr int64_t kDecoderLength = 45;

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
  return cases;
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

TEST(Decoder, SaysAtEveryPositionWhatTheForwardOfTrainingSays) {
  for (const ModelCase& c : every_decoder_case()) {
    test::ModelRun run(c);
    test::LeafArrays leaf(c.task, c.batch, c.length);
    leaf.mask.fill(1);
    std::vector<double> expected;
    for (int64_t i = 0; i < kDecoderLength; ++i) {
      test::LeafArrays only = leaf;
      only.labels.fill(-1);
      only.labels[i] = static_cast<int32_t>(i % c.task.vocab_size);
      run.forward(only, /*training=*/false);
      expected.push_back(run.loss_sum);
    }
    for (const Device device : test::test_devices()) {
      SCOPED_TRACE(test::name_of(c.attention.kind) + " on " + test::name_of(device));
      Living living(c, device);
      Decoder decoder = living.decoder(c.task.max_length);
      for (int round = 0; round < 2; ++round) {
        for (int64_t i = 0; i < kDecoderLength; ++i) {
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
}

TEST(Decoder, SoftmaxKeepsACache) {
  Living softmax(case_of(AttentionKind::kSoftmax, Positions::kRotary), kCpuDevice);
  EXPECT_TRUE(softmax.decoder(9).has_cache());
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
