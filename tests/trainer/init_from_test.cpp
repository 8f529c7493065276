// SPDX-License-Identifier: Apache-2.0
// What a new run takes over of another model, and what it says about the rest.
#include "trainer/loop/init_from.h"

#include <filesystem>

#include "core/copy.h"
#include "data/wordpiece/vocabulary.h"
#include "model/model.h"
#include "tests/support/attentions.h"
#include "tests/support/source_folder.h"
#include "tests/trainer/checkpoint_support.h"
#include "trainer/checkpoint/huggingface.h"

namespace stipple::trainer {
namespace {

using model::ParameterStore;
using test::TemporaryDirectory;

/// The tiny BERT, imported.
struct Imported {
  Imported() {
    bert = read_huggingface((test::source_folder() / "tests/golden/bert").string());
    write_imported(path, bert.config, bert.tensors, bert.architecture, {});
  }
  TemporaryDirectory folder;
  std::string path = folder / "tiny";
  HuggingFaceModel bert;

  const NewTensor* find(std::string_view name) const {
    for (const NewTensor& tensor : bert.tensors)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }
};

/// Parameters of a classifier that begin from a model.
struct Begun {
  Begun(const Config& config, LabelKind label, int64_t classes = 2,
        const std::string& vocabulary = {}) {
    model::FactTable facts(config.model.layers);
    const data::TaskInfo info{.name = "test",
                              .fields = {.label = label},
                              .vocab_size = 96,
                              .vocabulary = vocabulary,
                              .num_classes = classes,
                              .max_length = 12};
    const model::Model model(store, facts, config.model, config.attention,
                             {.fields = info.fields,
                              .vocab_size = info.vocab_size,
                              .num_classes = info.num_classes,
                              .max_length = info.max_length});
    store.allocate(kCpuDevice);
    store.initialize(stream, 5);
    random.assign(store.values().data, store.values().data + store.numel());
    const auto communicator = comm::make_single_communicator();
    init_from(config, info, *communicator, stream, store);
  }
  std::span<const float> values(const ParameterStore::Entry& entry) const {
    return std::span<const float>(store.values().span())
        .subspan(static_cast<size_t>(entry.range.begin), static_cast<size_t>(entry.range.size()));
  }
  bool is_as_drawn(const ParameterStore::Entry& entry) const {
    return std::ranges::equal(values(entry),
                              std::span(random).subspan(static_cast<size_t>(entry.range.begin),
                                                        static_cast<size_t>(entry.range.size())));
  }
  Stream stream{kCpuDevice};
  ParameterStore store;
  std::vector<float> random;
};

Config config_for(const Imported& imported,
                  model::AttentionKind kind = model::AttentionKind::kSoftmax) {
  Config config;
  config.model = imported.bert.config;
  config.attention.kind = kind;
  config.attention.combiner.block = 4;
  config.attention.sparsefinder.cluster.clusters = 3;
  config.init.from = imported.path;
  return config;
}

TEST(InitFrom, LoadsWhatEveryAttentionSharesAndLeavesTheRestAsDrawn) {
  const Imported imported;
  for (const model::AttentionKind kind : test::every_attention()) {
    SCOPED_TRACE(test::name_of(kind));
    const Begun begun(config_for(imported, kind), LabelKind::kClass);
    for (const ParameterStore::Entry& entry : begun.store.entries()) {
      const NewTensor* known = imported.find(entry.name);
      if (known == nullptr) {
        EXPECT_TRUE(begun.is_as_drawn(entry)) << entry.name;
      } else {
        EXPECT_TRUE(std::ranges::equal(begun.values(entry), known->values)) << entry.name;
      }
    }
    EXPECT_TRUE(begun.store.find("head.hidden.weight").has_value());
  }
}

TEST(InitFrom, GivesAMaskedLanguageModelItsHead) {
  const Imported imported;
  Config config = config_for(imported);
  config.model.pooler = false;
  const Begun begun(config, LabelKind::kMaskedToken);
  for (const char* name : {"masked_head.bias", "masked_head.norm.weight", "embedding.segments"}) {
    const auto& entry = begun.store.entry(*begun.store.find(name));
    EXPECT_TRUE(std::ranges::equal(begun.values(entry), imported.find(name)->values)) << name;
  }
}

TEST(InitFrom, AnotherHeadIsNewAndNoError) {
  const Imported imported;
  Config config = config_for(imported);
  config.model.pooler = false;
  config.model.head_hidden =
      config.model.width;  // of the pooler's shape, but with another activation
  const Begun begun(config, LabelKind::kClass);
  EXPECT_TRUE(begun.is_as_drawn(begun.store.entry(*begun.store.find("head.hidden.weight"))));
}

TEST(InitFrom, RefusesAnotherVocabularyOfEqualSize) {
  const Imported imported;
  const Imported without_vocabulary;
  const auto golden = test::source_folder() / "tests/golden/bert/vocab.txt";
  std::filesystem::copy_file(golden, imported.path + "/vocab.txt");
  const auto own = data::wordpiece::Vocabulary::read(golden.string());
  auto tokens = own.tokens();
  std::swap(tokens[5], tokens[6]);
  const data::wordpiece::Vocabulary other(tokens, "other");
  Config config = config_for(imported);
  config.data.vocab = "other.txt";
  EXPECT_NO_THROW(Begun(config, LabelKind::kClass, 2, own.hash()));
  EXPECT_NO_THROW(Begun(config, LabelKind::kClass, 2, ""));
  EXPECT_NO_THROW(Begun(config_for(without_vocabulary), LabelKind::kClass, 2, other.hash()));
  try {
    const Begun begun(config, LabelKind::kClass, 2, other.hash());
    FAIL() << "it was taken";
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.what(), "init.from: " + imported.path +
                            " was trained with another vocabulary than other.txt (hash " +
                            own.hash() + ", not " + other.hash() +
                            "); let data.vocab be the one that it was trained with");
  }
}

TEST(InitFrom, RefusesInOneLineWhatDoesNotFit) {
  const Imported imported;
  const auto error_of = [&](const auto& change) -> std::string {
    Config config = config_for(imported);
    change(config);
    try {
      const Begun begun(config, LabelKind::kClass);
      return "none";
    } catch (const ConfigError& e) {
      return e.what();
    }
  };
  const auto from = "init.from: " + imported.path;
  EXPECT_EQ(error_of([](Config&) {}), "none");
  EXPECT_EQ(
      error_of([](Config& c) {
        c.model.norm = model::NormPlace::kPre;
        c.model.layers = 1;
      }),
      from +
          " is another model: model.layers is 2 there and 1 here, model.norm is post there and pre "
          "here; use its values");
  EXPECT_EQ(error_of([](Config& c) { c.model.max_positions = 0; }),
            from +
                ": tensor 'embedding.positions' has shape [20, 16] there and [12, 16] here; use "
                "model.max_positions=20");
  EXPECT_EQ(error_of([](Config& c) { c.model.segments = 3; }),
            from +
                ": tensor 'embedding.segments' has shape [2, 16] there and [3, 16] here; use "
                "model.segments=2");
  EXPECT_NE(error_of([](Config& c) { c.init.from += "-not-there"; }).find("holds no model"),
            std::string::npos);
}

}  // namespace
}  // namespace stipple::trainer
