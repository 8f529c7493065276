// SPDX-License-Identifier: Apache-2.0
// Models of `transformers`: computed alike, taken over and given back with the same bits, refused where
// they would be computed otherwise. What `transformers` makes of a model stands beside it, written by
// tests/golden/bert/make.py; STIPPLE_BERT_GOLDEN names another folder of its making.
#include "trainer/checkpoint/huggingface.h"

#include <cmath>
#include <cstdlib>
#include <map>

#include "core/copy.h"
#include "core/json.h"
#include "model/model.h"
#include "tests/support/arrays.h"
#include "tests/support/source_folder.h"
#include "tests/trainer/checkpoint_support.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;
using test::Array;
using test::TemporaryDirectory;

fs::path tiny_bert() { return test::source_folder() / "tests/golden/bert"; }

fs::path golden_folder() {
  const char* other = std::getenv("STIPPLE_BERT_GOLDEN");
  return other == nullptr ? tiny_bert() : fs::path(other);
}

template <class T>
Array<T> read_integers(const SafetensorsFile& file, const char* name) {
  const auto* entry = file.find(name);
  std::vector<int64_t> values(static_cast<size_t>(entry->shape.numel()));
  file.read(*entry, std::as_writable_bytes(std::span(values)));
  Array<T> array(entry->shape);
  for (int64_t i = 0; i < array.numel(); ++i)
    array[i] = static_cast<T>(values[static_cast<size_t>(i)]);
  return array;
}

/// An imported model under one of its heads, and a leaf of sequences for it.
class BertRun {
 public:
  BertRun(const HuggingFaceModel& bert, const SafetensorsFile& golden, LabelKind label)
      : ids_(read_integers<int32_t>(golden, "ids")),
        segments_(read_integers<int32_t>(golden, "segments")),
        mask_(read_integers<uint8_t>(golden, "mask")),
        samples_({ids_.shape()[0]}),
        facts_(bert.config.layers),
        model_(store_, facts_, bert.config, {.kind = model::AttentionKind::kSoftmax},
               {.fields = {.label = label, .segments = 2},
                .vocab_size = vocabulary_of(bert),
                .num_classes = 2,
                .max_length = ids_.shape()[1]}),
        saved_of_model_(model_.make_saved()),
        told_(facts_.bytes()) {
    store_.allocate(kCpuDevice);
    for (const NewTensor& tensor : bert.tensors)
      if (const auto id = store_.find(tensor.name))
        upload(stream_, store_.value(*id), std::span<const float>(tensor.values));
  }

  static int64_t vocabulary_of(const HuggingFaceModel& bert) {
    for (const NewTensor& tensor : bert.tensors)
      if (tensor.name == "embedding.tokens") return tensor.shape[0];
    return 0;
  }

  Array<float> hidden() {
    Array<float> y({ids_.shape()[0], ids_.shape()[1], width()});
    model::Context ctx = context();
    model_.encode(ctx, input(), *saved_of_model_, y);
    return y;
  }
  Array<float> pooled(const Array<float>& encoded) {
    Array<float> y({ids_.shape()[0], width()});
    model::Context ctx = context();
    model_.pooled(ctx, input(), encoded, y);
    return y;
  }
  Array<float> logits(const Array<float>& encoded) {
    const int64_t tokens = ids_.numel();
    Array<float> y({tokens, store_.entry(*store_.find("embedding.tokens")).shape[0]});
    model::Context ctx = context();
    model_.masked_logits(ctx, View<const float>(encoded).reshape({tokens, width()}), y);
    return y;
  }
  const Array<uint8_t>& mask() const { return mask_; }

 private:
  int64_t width() const { return store_.entry(*store_.find("embedding.tokens")).shape[1]; }
  model::Input input() const {
    model::Input input;
    input.ids = ids_;
    input.segments = segments_;
    input.mask = mask_;
    input.samples = samples_;
    return input;
  }
  model::Context context() {
    saved_.rewind(0);
    return {.stream = stream_,
            .saved = saved_,
            .scratch = scratch_,
            .rng = {},
            .training = false,
            .observer = nobody_,
            .facts = {facts_, told_.data()}};
  }

  Array<int32_t> ids_, segments_;
  Array<uint8_t> mask_;
  Array<uint32_t> samples_;
  Stream stream_{kCpuDevice};
  model::Observer nobody_;
  model::ParameterStore store_;
  model::FactTable facts_;
  model::Model model_;
  std::unique_ptr<model::Model::Saved, void (*)(model::Model::Saved*)> saved_of_model_;
  std::vector<std::byte> told_;
  Arena saved_{"saved", kCpuDevice, size_t{256} << 20},
      scratch_{"scratch", kCpuDevice, size_t{256} << 20};
};

/// The largest difference over rows that are tokens.
double largest_difference(const Array<float>& actual, const std::vector<float>& expected,
                          const std::vector<bool>& is_token) {
  EXPECT_EQ(actual.values().size(), expected.size());
  const size_t width = expected.size() / is_token.size();
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!is_token[i / width]) continue;
    const double difference =
        std::abs(static_cast<double>(actual.values()[i]) - static_cast<double>(expected[i]));
    worst = std::max(worst, std::isfinite(difference) ? difference : 1e30);
  }
  return worst;
}

TEST(HuggingFace, AgreesWithTransformers) {
  const fs::path folder = golden_folder();
  const double most = folder == tiny_bert() ? 1e-5 : 2e-4;
  const SafetensorsFile golden((folder / "expected.safetensors").string());
  const HuggingFaceModel bert = read_huggingface(folder.string());
  const auto expected = [&](const char* name) { return golden.floats(*golden.find(name)); };
  const auto report = [&](const char* what, double difference) {
    EXPECT_LE(difference, most) << what;
    testing::Test::RecordProperty(what, std::to_string(difference));
    if (folder != tiny_bert()) printf("%s: at most %.2g from transformers\n", what, difference);
  };
  BertRun classifier(bert, golden, LabelKind::kClass);
  std::vector<bool> is_token, is_sequence(static_cast<size_t>(classifier.mask().shape()[0]), true);
  for (const uint8_t token : classifier.mask().values()) is_token.push_back(token != 0);
  const Array<float> hidden = classifier.hidden();
  report("hidden states", largest_difference(hidden, expected("hidden"), is_token));
  report("pooled vectors",
         largest_difference(classifier.pooled(hidden), expected("pooled"), is_sequence));
  if (golden.find("logits") == nullptr) return;
  BertRun masked(bert, golden, LabelKind::kMaskedToken);
  report("masked-LM logits",
         largest_difference(masked.logits(masked.hidden()), expected("logits"), is_token));
}

TEST(HuggingFace, NamesOfBothSidesAreEachOthersInverse) {
  for (const NewTensor& tensor : read_huggingface(tiny_bert().string()).tensors) {
    const auto theirs = huggingface_name(tensor.name);
    ASSERT_TRUE(theirs.has_value()) << tensor.name;
    EXPECT_EQ(our_name(*theirs), tensor.name);
  }
  EXPECT_EQ(huggingface_name("encoder.11.feedforward.in.bias"),
            "bert.encoder.layer.11.intermediate.dense.bias");
  EXPECT_EQ(our_name("bert.encoder.layer.0.attention.output.LayerNorm.weight"),
            "encoder.0.attention_norm.weight");
  for (const char* none : {"bert.encoder.layer.x.output.dense.bias", "bert.embeddings",
                           "lm_head.weight", "bert.pooler.dense.weight.extra"})
    EXPECT_EQ(our_name(none), std::nullopt) << none;
  EXPECT_EQ(huggingface_name("encoder.0.attention.phi.hidden.weight"), std::nullopt);
}

std::map<std::string, std::vector<float>> tensors_in(const fs::path& path) {
  std::map<std::string, std::vector<float>> tensors;
  const SafetensorsFile file(path.string());
  for (const auto& entry : file.entries()) tensors[entry.name] = file.floats(entry);
  return tensors;
}

TEST(HuggingFace, AnImportedModelIsGivenBackWithTheSameBits) {
  const TemporaryDirectory scratch;
  const HuggingFaceModel bert = read_huggingface(tiny_bert().string());
  EXPECT_EQ(bert.architecture, "BertForPreTraining");
  EXPECT_TRUE(bert.notes.empty());
  const std::string imported = scratch / "models/tiny", exported = scratch / "out";
  write_imported(imported, bert.config, bert.tensors, bert.architecture,
                 {{"vocab.txt", (tiny_bert() / "vocab.txt").string()}});
  const StoredModel stored(imported);
  write_huggingface(exported, to_huggingface(stored, {}),
                    {{"vocab.txt", stored.file_beside("vocab.txt")}});

  EXPECT_TRUE(tensors_in(exported + "/model.safetensors") ==
              tensors_in(tiny_bert() / "model.safetensors"));
  EXPECT_EQ(test::read_bytes(exported + "/vocab.txt"), test::read_bytes(tiny_bert() / "vocab.txt"));
  const Json before = Json::parse(test::read_bytes(tiny_bert() / "config.json"));
  const Json after = Json::parse(test::read_bytes(exported + "/config.json"));
  for (const char* key :
       {"architectures", "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps",
        "max_position_embeddings", "model_type", "num_attention_heads", "num_hidden_layers",
        "type_vocab_size", "vocab_size", "hidden_dropout_prob"})
    EXPECT_EQ(after.at(key), before.at(key)) << key;
}

TEST(HuggingFace, AModelWithoutAHeadHasNamesWithoutThePrefix) {
  const TemporaryDirectory scratch;
  HuggingFaceModel bert = read_huggingface(tiny_bert().string());
  std::erase_if(bert.tensors,
                [](const NewTensor& t) { return t.name.starts_with("masked_head."); });
  bert.architecture = "BertModel";
  write_huggingface(scratch / "bert", bert, {});
  const auto tensors = tensors_in(scratch / "bert/model.safetensors");
  EXPECT_TRUE(tensors.contains("embeddings.word_embeddings.weight"));
  EXPECT_TRUE(tensors.contains("pooler.dense.bias"));
  const HuggingFaceModel again = read_huggingface(scratch / "bert");
  ASSERT_EQ(again.tensors.size(), bert.tensors.size());
  for (size_t i = 0; i < again.tensors.size(); ++i)
    EXPECT_EQ(again.tensors[i].values, bert.tensors[i].values);
}

/// The tiny model in a folder where files are replaced.
class Spoiled {
 public:
  Spoiled() {
    for (const char* name : {"config.json", "model.safetensors"})
      fs::copy_file(tiny_bert() / name, folder_.path() / name);
  }
  void set(const char* key, Json value) {
    Json config = Json::parse(test::read_bytes(folder_.path() / "config.json"));
    config[key] = std::move(value);
    test::write_bytes(folder_.path() / "config.json", config.dump());
  }
  /// Every tensor goes through `change`, which may rename it, give it another shape, or drop it.
  template <class Change>
  void change_tensors(const Change& change) {
    std::vector<NewTensor> tensors;
    {
      const SafetensorsFile file((tiny_bert() / "model.safetensors").string());
      for (const auto& entry : file.entries()) {
        NewTensor tensor{entry.name, entry.shape, file.floats(entry)};
        if (change(tensor)) tensors.push_back(std::move(tensor));
      }
    }
    fs::remove(folder_.path() / "model.safetensors");
    write_tensors(folder_ / "model.safetensors", tensors, {});
  }
  std::string error() const {
    try {
      read_huggingface(folder_.path().string());
      return "none";
    } catch (const ConfigError& e) {
      const std::string text = e.what();
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      return text;
    }
  }
  const fs::path& path() const { return folder_.path(); }

 private:
  TemporaryDirectory folder_;
};

TEST(HuggingFace, RefusesByNameWhatWouldBeAnotherModelHere) {
  const std::pair<const char*, Json> keys[] = {
      {"model_type", "roberta"},      {"hidden_act", "gelu_new"},
      {"is_decoder", true},           {"position_embedding_type", "relative_key"},
      {"tie_word_embeddings", false}, {"quantization_config", Json::object()},
      {"num_hidden_layers", 3},       {"hidden_size", 18},
      {"vocab_size_of_nothing", 1}};
  for (const auto& [key, value] : keys) {
    Spoiled spoiled;
    spoiled.set(key, value);
    const bool is_harmless = std::string(key) == "vocab_size_of_nothing";
    EXPECT_EQ(spoiled.error() == "none", is_harmless) << key << ": " << spoiled.error();
  }
  Spoiled roberta;
  roberta.set("model_type", "roberta");
  EXPECT_EQ(roberta.error(), (roberta.path() / "config.json").string() +
                                 ": model_type is roberta; models of type bert can be imported");
}

TEST(HuggingFace, RefusesByNameTensorsThatAreMissingUnknownOrOfAnotherShape) {
  const std::string query = "bert.encoder.layer.1.attention.self.query.weight";
  const auto error_of = [&](const auto& change) {
    Spoiled spoiled;
    spoiled.change_tensors(change);
    return spoiled.error();
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  contains(error_of([&](NewTensor& t) { return t.name != query; }), "'" + query + "' is missing");
  contains(error_of([](NewTensor& t) { return t.name != "cls.predictions.bias"; }),
           "'cls.predictions.bias' is missing");
  contains(error_of([&](NewTensor& t) {
             if (t.name == query) t.name = "bert.encoder.layer.1.attention.self.rotary.weight";
             return true;
           }),
           "'bert.encoder.layer.1.attention.self.rotary.weight' is none that BERT has");
  contains(error_of([&](NewTensor& t) {
             if (t.name == query) t.shape = {32, 8};
             return true;
           }),
           "'" + query + "' has shape [32, 8], and config.json makes it [16, 16]");
  // A head that is absent as a whole is no fault.
  EXPECT_EQ(error_of([](NewTensor& t) { return !t.name.starts_with("cls.predictions."); }), "none");
}

TEST(HuggingFace, TakesADecoderThatIsTiedAndRefusesOneThatIsNot) {
  for (const bool is_tied : {true, false}) {
    Spoiled spoiled;
    std::vector<NewTensor> tensors;
    {
      const SafetensorsFile file((tiny_bert() / "model.safetensors").string());
      for (const auto& entry : file.entries())
        tensors.push_back({entry.name, entry.shape, file.floats(entry)});
      const auto* table = file.find("bert.embeddings.word_embeddings.weight");
      tensors.push_back({"cls.predictions.decoder.weight", table->shape, file.floats(*table)});
      if (!is_tied) tensors.back().values[7] += 1.0f;
      tensors.push_back({"bert.embeddings.position_ids", {1}, {0.0f}});
    }
    fs::remove(spoiled.path() / "model.safetensors");
    write_tensors((spoiled.path() / "model.safetensors").string(), tensors, {});
    EXPECT_EQ(spoiled.error() == "none", is_tied) << spoiled.error();
  }
}

TEST(HuggingFace, SaysWhichFileItNeeds) {
  Spoiled spoiled;
  fs::rename(spoiled.path() / "model.safetensors", spoiled.path() / "pytorch_model.bin");
  EXPECT_NE(spoiled.error().find("pytorch_model.bin"), std::string::npos) << spoiled.error();
  fs::remove(spoiled.path() / "config.json");
  EXPECT_NE(spoiled.error().find("config.json"), std::string::npos) << spoiled.error();
}

TEST(HuggingFace, RefusesToExportWhatBertIsNot) {
  const HuggingFaceModel bert = read_huggingface(tiny_bert().string());
  const auto error_of = [&](const auto& change) -> std::string {
    const TemporaryDirectory scratch;
    model::ModelConfig config = bert.config;
    change(config);
    write_imported(scratch / "m", config, bert.tensors, "", {});
    try {
      to_huggingface(StoredModel(scratch / "m"), {});
      return "none";
    } catch (const ConfigError& e) {
      return e.what();
    }
  };
  EXPECT_EQ(error_of([](model::ModelConfig&) {}), "none");
  EXPECT_NE(error_of([](auto& c) { c.norm = model::NormPlace::kPre; }).find("model.norm"),
            std::string::npos);
  EXPECT_NE(error_of([](auto& c) { c.pooler = false; }).find("model.pooler"), std::string::npos);
  EXPECT_NE(
      error_of([](auto& c) { c.positions = model::Positions::kRotary; }).find("model.positions"),
      std::string::npos);
}

TEST(StoredModel, ThatIsDamagedIsTold) {
  const TemporaryDirectory scratch;
  const HuggingFaceModel bert = read_huggingface(tiny_bert().string());
  write_imported(scratch / "m", bert.config, bert.tensors, "", {});
  EXPECT_THROW(write_imported(scratch / "m", bert.config, bert.tensors, "", {}), ConfigError);
  EXPECT_EQ(StoredModel(scratch / "m").config().model.norm_eps, 1e-12);
  std::string bytes = test::read_bytes(scratch / "m/model.safetensors");
  bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);
  test::write_bytes(scratch / "m/model.safetensors", bytes);
  EXPECT_THROW(StoredModel(scratch / "m"), DataError);
  EXPECT_THROW(StoredModel(scratch / "nothing"), ConfigError);
}

/// Numbers of 16 bits in a file, as they are in fp32.
std::vector<float> read_halves(TensorType type, const std::vector<uint16_t>& bits) {
  const TemporaryDirectory scratch;
  const TensorSource source{.name = "x",
                            .type = type,
                            .shape = {static_cast<int64_t>(bits.size())},
                            .bytes = std::as_bytes(std::span(bits))};
  const std::string header = safetensors_header(std::span(&source, 1));
  DurableFile out(scratch / "x");
  out.write(std::as_bytes(std::span(header)));
  out.write(source.bytes);
  out.close();
  const SafetensorsFile file(scratch / "x");
  return file.floats(file.entries()[0]);
}

TEST(Safetensors, ReadsNumbersOf16BitsExactly) {
  EXPECT_EQ(read_halves(TensorType::kF16,
                        {0x3c00, 0xc000, 0x3555, 0x0001, 0x83ff, 0x0400, 0x7bff, 0x7c00, 0x8000}),
            (std::vector<float>{1.0f, -2.0f, 0.333251953125f, 0x1p-24f, -0x3ffp-24f, 0x1p-14f,
                                65504.0f, std::numeric_limits<float>::infinity(), -0.0f}));
  EXPECT_TRUE(std::isnan(read_halves(TensorType::kF16, {0x7e00})[0]));
  EXPECT_EQ(read_halves(TensorType::kBf16, {0x3f80, 0xc000, 0x3eab, 0x0001}),
            (std::vector<float>{1.0f, -2.0f, 0.333984375f, std::bit_cast<float>(0x00010000u)}));
}

}  // namespace
}  // namespace stipple::trainer
