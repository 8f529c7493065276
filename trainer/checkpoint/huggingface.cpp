// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/huggingface.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "trainer/checkpoint/new_folder.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostJsonBytes = int64_t{1} << 24;

/// A tensor, or a module: what follows its name (".weight", ".bias") is the same on both sides. '#'
/// is the number of a layer.
struct NamePair {
  std::string_view ours, theirs;
};
constexpr std::array kNames{
    NamePair{"embedding.tokens", "bert.embeddings.word_embeddings.weight"},
    NamePair{"embedding.positions", "bert.embeddings.position_embeddings.weight"},
    NamePair{"embedding.segments", "bert.embeddings.token_type_embeddings.weight"},
    NamePair{"embedding.norm", "bert.embeddings.LayerNorm"},
    NamePair{"encoder.#.query", "bert.encoder.layer.#.attention.self.query"},
    NamePair{"encoder.#.key", "bert.encoder.layer.#.attention.self.key"},
    NamePair{"encoder.#.value", "bert.encoder.layer.#.attention.self.value"},
    NamePair{"encoder.#.out", "bert.encoder.layer.#.attention.output.dense"},
    NamePair{"encoder.#.attention_norm", "bert.encoder.layer.#.attention.output.LayerNorm"},
    NamePair{"encoder.#.feedforward.in", "bert.encoder.layer.#.intermediate.dense"},
    NamePair{"encoder.#.feedforward.out", "bert.encoder.layer.#.output.dense"},
    NamePair{"encoder.#.feedforward_norm", "bert.encoder.layer.#.output.LayerNorm"},
    NamePair{"head.hidden", "bert.pooler.dense"},
    NamePair{"head.out", "classifier"},
    NamePair{"masked_head.dense", "cls.predictions.transform.dense"},
    NamePair{"masked_head.norm", "cls.predictions.transform.LayerNorm"},
    NamePair{"masked_head.bias", "cls.predictions.bias"},
    NamePair{"relation", "cls.seq_relationship"},
};

/// What follows `pattern` in `name`, and the digits at its '#'; none where it does not begin with it.
struct Match {
  std::string_view layer, rest;
};
std::optional<Match> match(std::string_view pattern, std::string_view name) {
  Match found;
  const size_t hash = pattern.find('#');
  if (hash != std::string_view::npos) {
    if (!name.starts_with(pattern.substr(0, hash))) return std::nullopt;
    name.remove_prefix(hash);
    pattern.remove_prefix(hash + 1);
    const size_t digits = name.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos) return std::nullopt;
    found.layer = name.substr(0, digits);
    name.remove_prefix(digits);
  }
  if (!name.starts_with(pattern)) return std::nullopt;
  found.rest = name.substr(pattern.size());
  if (!found.rest.empty() && found.rest != ".weight" && found.rest != ".bias") return std::nullopt;
  return found;
}

std::string filled(std::string_view pattern, const Match& match) {
  std::string name(pattern);
  const size_t hash = name.find('#');
  if (hash != std::string::npos) name.replace(hash, 1, match.layer);
  return name.append(match.rest);
}

std::optional<std::string> translated_name(std::string_view name, std::string_view NamePair::*from,
                                           std::string_view NamePair::*to) {
  for (const NamePair& pair : kNames)
    if (const auto found = match(pair.*from, name)) return filled(pair.*to, *found);
  return std::nullopt;
}

/// One part of a file's words, for errors.
template <class... Parts>
void require_in(const std::string& file, bool condition, const Parts&... parts) {
  STIPPLE_CHECK_AS(ConfigError, condition, file, ": ", parts...);
}

// --- Reading ---

Json read_json(const std::string& path) {
  try {
    Json json = Json::parse(read_text(path, kMostJsonBytes));
    require_in(path, json.is_object(), "is no map");
    return json;
  } catch (const ConfigError&) {
    throw;
  } catch (const Error& e) {
    throw ConfigError(fmt::format("{}: {}", path, e.what()));
  }
}

/// A key of config.json, or what BERT has where the file does not say.
template <class T>
T value_of(const std::string& path, const Json& json, const char* key,
           std::optional<T> usual = {}) {
  const Json* value = json.find(key);
  if (value == nullptr || value->is_null()) {
    require_in(path, usual.has_value(), "has no key '", key, "'");
    return *usual;
  }
  try {
    return value->get<T>();
  } catch (const DataError& e) {
    throw ConfigError(fmt::format("{}: {}: {}", path, key, e.what()));
  }
}

void refuse_other_models(const std::string& path, const Json& json) {
  const auto text = [&](const char* key, const char* usual) {
    return value_of<std::string>(path, json, key, usual);
  };
  const std::string type = value_of<std::string>(path, json, "model_type");
  require_in(path, type == "bert", "model_type is ", type, "; models of type bert can be imported");
  const std::string activation = text("hidden_act", "gelu");
  require_in(path, activation == "gelu", "hidden_act is ", activation,
             "; this program has gelu, the exact one");
  const std::string positions = text("position_embedding_type", "absolute");
  require_in(path, positions == "absolute", "position_embedding_type is ", positions,
             "; this program has absolute ones");
  for (const char* key : {"is_decoder", "add_cross_attention", "is_encoder_decoder"})
    require_in(path, !value_of<bool>(path, json, key, false), key,
               " is true; encoders can be imported");
  require_in(path, value_of<bool>(path, json, "tie_word_embeddings", true),
             "tie_word_embeddings is false; this program ties the decoder to the embedding");
  require_in(path, !json.contains("quantization_config"),
             "the model is quantized (quantization_config); import the one that it was made of");
}

model::ModelConfig read_config(const std::string& path, const Json& json) {
  const auto count = [&](const char* key) { return value_of<int64_t>(path, json, key); };
  model::ModelConfig config;
  config.layers = count("num_hidden_layers");
  config.width = count("hidden_size");
  config.heads = count("num_attention_heads");
  config.feedforward = count("intermediate_size");
  config.max_positions = count("max_position_embeddings");
  config.segments = count("type_vocab_size");
  config.dropout = value_of<double>(path, json, "hidden_dropout_prob", 0.1);
  config.norm = model::NormPlace::kPost;
  config.norm_eps = value_of<double>(path, json, "layer_norm_eps", 1e-12);
  config.mean_over = kernels::MeanOver::kCls;
  config.pooler = true;
  for (const int64_t n : {config.layers, config.width, config.heads, config.feedforward,
                          config.max_positions, config.segments})
    require_in(path, n >= 1, "a size of the model is ", n);
  require_in(path, config.width % config.heads == 0, "hidden_size ", config.width,
             " is no multiple of num_attention_heads ", config.heads);
  return config;
}

std::vector<std::string> read_labels(const std::string& path, const Json& json) {
  std::vector<std::string> labels;
  const Json* names = json.find("id2label");
  if (names == nullptr || !names->is_object()) return labels;
  for (size_t i = 0; i < names->size(); ++i)
    labels.push_back(value_of<std::string>(path, *names, std::to_string(i).c_str()));
  return labels;
}

/// As `transformers` names it today: with the prefix that a model without a head lacks, and the words
/// of TensorFlow replaced.
std::string modern_name(std::string name) {
  for (const char* part : {"embeddings.", "encoder.", "pooler."})
    if (name.starts_with(part)) name = "bert." + name;
  const auto replace_end = [&](std::string_view from, std::string_view to) {
    if (name.ends_with(from)) name.replace(name.size() - from.size(), from.size(), to);
  };
  replace_end("LayerNorm.gamma", "LayerNorm.weight");
  replace_end("LayerNorm.beta", "LayerNorm.bias");
  return name;
}

/// The tensors that a model of this shape has: what is learned of a classifier, and of a masked
/// language model of pairs.
std::map<std::string, Shape> expected_shapes(const model::ModelConfig& config, int64_t vocabulary,
                                             int64_t classes) {
  std::map<std::string, Shape> shapes;
  for (const LabelKind label : {LabelKind::kClass, LabelKind::kMaskedToken}) {
    model::ParameterStore store;
    model::FactTable facts(config.layers);
    const model::Model model(
        store, facts, config, {.kind = model::AttentionKind::kSoftmax},
        {.fields = {.label = label, .has_relation = label == LabelKind::kMaskedToken},
         .vocab_size = vocabulary,
         .num_classes = classes,
         .max_length = config.max_positions});
    for (const auto& entry : store.entries()) shapes[entry.name] = entry.shape;
  }
  return shapes;
}

std::string open_weights(const std::string& folder) {
  const std::string path = (fs::path(folder) / "model.safetensors").string();
  if (path_exists(path)) return path;
  for (const char* other : {"model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"})
    STIPPLE_CHECK_AS(
        ConfigError, !path_exists((fs::path(folder) / other).string()), folder,
        " has its weights in ", other,
        ", and model.safetensors is what can be read; "
        "transformers writes it: model.save_pretrained(FOLDER, max_shard_size=\"99GB\")");
  throw ConfigError(fmt::format("{} has no model.safetensors", folder));
}

/// The modules that a file may lack as a whole.
constexpr std::array<std::string_view, 4> kHeads = {"head.hidden.", "head.out.", "masked_head.",
                                                    "relation."};

std::string_view head_of(std::string_view name) {
  for (const std::string_view head : kHeads)
    if (name.starts_with(head)) return head;
  return {};
}

/// Collects the tensors of a file, by our names, and says why one cannot be taken.
class Intake {
 public:
  Intake(std::string path) : file_(std::move(path)) {}

  HuggingFaceModel take(HuggingFaceModel model) {
    for (const auto& entry : file_.entries()) take(entry, model);
    for (const std::string& tied : tied_) check_tied(tied);
    check_complete(model.config);
    for (auto& [name, entry] : taken_)
      model.tensors.push_back({name, entry->shape, file_.floats(*entry)});
    return model;
  }

 private:
  using Entry = SafetensorsFile::Entry;

  void take(const Entry& entry, HuggingFaceModel& model) {
    const std::string name = modern_name(entry.name);
    if (name.ends_with("position_ids")) {
      model.notes.push_back(fmt::format("{} is left out: it only counts positions", entry.name));
      return;
    }
    if (name == "cls.predictions.decoder.weight" || name == "cls.predictions.decoder.bias") {
      tied_.push_back(entry.name);
      return;
    }
    const auto ours = our_name(name);
    require_in(file_.path(), ours.has_value(), "tensor '", entry.name, "' is none that BERT has");
    require_in(file_.path(), taken_.emplace(*ours, &entry).second, "tensor '", entry.name,
               "' is there twice, by another name");
    require_in(file_.path(),
               entry.type == TensorType::kF32 || entry.type == TensorType::kF16 ||
                   entry.type == TensorType::kBf16,
               "tensor '", entry.name, "' is stored as ", name_of(entry.type),
               "; F32, F16 and BF16 can be imported");
  }

  void check_tied(const std::string& name) const {
    const auto twin =
        taken_.find(name.ends_with("weight") ? "embedding.tokens" : "masked_head.bias");
    require_in(
        file_.path(),
        twin != taken_.end() && file_.floats(*file_.find(name)) == file_.floats(*twin->second),
        "tensor '", name,
        "' is not the one that it is tied to; this program ties the decoder "
        "to the embedding");
  }

  void check_complete(const model::ModelConfig& config) const {
    const auto rows = [&](const char* name) {
      const auto found = taken_.find(name);
      return found == taken_.end() || found->second->shape.rank() != 2 ? 1
                                                                       : found->second->shape[0];
    };
    const auto shapes = expected_shapes(config, rows("embedding.tokens"), rows("head.out.weight"));
    for (const auto& [name, shape] : shapes) {
      const auto found = taken_.find(name);
      const std::string theirs = huggingface_name(name).value_or(name);
      require_in(file_.path(), found != taken_.end() || lacks_head(name), "tensor '", theirs,
                 "' is missing");
      if (found == taken_.end()) continue;
      require_in(file_.path(), found->second->shape == shape, "tensor '", found->second->name,
                 "' has shape ", found->second->shape.str(), ", and config.json makes it ",
                 shape.str());
    }
    for (const auto& [name, entry] : taken_)
      require_in(file_.path(), shapes.contains(name), "tensor '", entry->name,
                 "' is of a layer that config.json does not have");
  }

  /// Whether the file has nothing of the head that the tensor belongs to.
  bool lacks_head(const std::string& name) const {
    const std::string_view head = head_of(name);
    return !head.empty() &&
           std::ranges::none_of(taken_, [&](const auto& t) { return head_of(t.first) == head; });
  }

  SafetensorsFile file_;
  std::map<std::string, const Entry*> taken_;
  std::vector<std::string> tied_;
};

// --- Writing ---

bool has_module(const StoredModel& model, std::string_view head) {
  return std::ranges::any_of(model.tensors(),
                             [&](const StoredTensor& t) { return head_of(t.name) == head; });
}

void refuse_what_bert_has_not(const StoredModel& model) {
  const model::ModelConfig& config = model.config().model;
  const auto require = [&](bool condition, const auto&... parts) {
    STIPPLE_CHECK_AS(ConfigError, condition, model.path(), ": ", parts...,
                     "; what transformers computes would be another model");
  };
  require(model.config().attention.kind == model::AttentionKind::kSoftmax,
          "attention.kind is not softmax, and BERT's is");
  require(!config.causal, "model.causal is true, and BERT sees all tokens");
  require(config.norm == model::NormPlace::kPost, "model.norm is pre, and BERT's is post");
  require(config.positions == model::Positions::kLearned,
          "model.positions is not learned, and BERT's are");
  require(model.find("embedding.segments") != nullptr,
          "model.segments is 0, and BERT has one kind of tokens at least");
  require(!has_module(model, "head.hidden.") ||
              (config.pooler && config.mean_over == kernels::MeanOver::kCls),
          "its head is not BERT's (model.pooler=true, model.mean_over=cls)");
}

std::string architecture_of(const StoredModel& model) {
  if (!model.architecture().empty()) return model.architecture();
  if (has_module(model, "head.out.")) return "BertForSequenceClassification";
  if (has_module(model, "relation.")) return "BertForPreTraining";
  return has_module(model, "masked_head.") ? "BertForMaskedLM" : "BertModel";
}

int64_t rows_of_tensor(const HuggingFaceModel& model, std::string_view name) {
  for (const NewTensor& tensor : model.tensors)
    if (tensor.name == name) return tensor.shape[0];
  return 0;
}

void add_labels(const HuggingFaceModel& model, Json& json) {
  const int64_t classes = rows_of_tensor(model, "head.out.weight");
  if (classes == 0) return;
  if (classes == 1) json["problem_type"] = "regression";
  Json& names = json["id2label"] = Json::object();
  Json& numbers = json["label2id"] = Json::object();
  for (int64_t i = 0; i < classes; ++i) {
    const std::string label =
        model.labels.empty() ? fmt::format("LABEL_{}", i) : model.labels[static_cast<size_t>(i)];
    names[std::to_string(i)] = label;
    numbers[label] = i;
  }
}

std::string config_json(const HuggingFaceModel& model) {
  const model::ModelConfig& config = model.config;
  Json json{{"architectures", Json::array({Json(model.architecture)})},
            {"attention_probs_dropout_prob", config.dropout},
            {"dtype", "float32"},
            {"hidden_act", "gelu"},
            {"hidden_dropout_prob", config.dropout},
            {"hidden_size", config.width},
            {"initializer_range", 0.02},
            {"intermediate_size", config.feedforward},
            {"layer_norm_eps", config.norm_eps},
            {"max_position_embeddings", rows_of_tensor(model, "embedding.positions")},
            {"model_type", "bert"},
            {"num_attention_heads", config.heads},
            {"num_hidden_layers", config.layers},
            {"pad_token_id", 0},
            {"position_embedding_type", "absolute"},
            {"tie_word_embeddings", true},
            {"torch_dtype", "float32"},
            {"type_vocab_size", rows_of_tensor(model, "embedding.segments")},
            {"use_cache", true},
            {"vocab_size", rows_of_tensor(model, "embedding.tokens")}};
  add_labels(model, json);
  return json.dump(2) + "\n";
}

}  // namespace

std::optional<std::string> huggingface_name(std::string_view ours) {
  return translated_name(ours, &NamePair::ours, &NamePair::theirs);
}

std::optional<std::string> our_name(std::string_view theirs) {
  return translated_name(theirs, &NamePair::theirs, &NamePair::ours);
}

HuggingFaceModel read_huggingface(const std::string& folder) {
  STIPPLE_CHECK_AS(ConfigError, fs::is_directory(folder), folder, " is no folder");
  const std::string path = (fs::path(folder) / "config.json").string();
  STIPPLE_CHECK_AS(ConfigError, path_exists(path), folder,
                   " has no config.json: give the folder of a model as transformers writes it");
  const Json json = read_json(path);
  refuse_other_models(path, json);
  HuggingFaceModel model{.architecture = "BertModel", .config = read_config(path, json)};
  model.labels = read_labels(path, json);
  if (const Json* classes = json.find("architectures");
      classes != nullptr && classes->is_array() && classes->size() > 0)
    model.architecture = classes->items().front().get<std::string>();
  try {
    model = Intake(open_weights(folder)).take(std::move(model));
  } catch (const CheckpointError& e) {
    throw ConfigError(e.what());
  }
  model.config.pooler = rows_of_tensor(model, "head.hidden.weight") > 0;
  return model;
}

HuggingFaceModel to_huggingface(const StoredModel& from, const std::vector<std::string>& labels) {
  refuse_what_bert_has_not(from);
  HuggingFaceModel model{.architecture = architecture_of(from), .config = from.config().model};
  for (const StoredTensor& tensor : from.tensors()) {
    STIPPLE_CHECK_AS(ConfigError, huggingface_name(tensor.name).has_value(), from.path(),
                     ": tensor '", tensor.name, "' is none that BERT has");
    model.tensors.push_back({tensor.name, tensor.shape, from.read(tensor)});
  }
  model.labels = labels.empty() ? from.class_names() : labels;
  const auto classes = static_cast<size_t>(rows_of_tensor(model, "head.out.weight"));
  STIPPLE_CHECK_AS(ConfigError, labels.empty() || labels.size() == classes,
                   "--labels: ", labels.size(), " names, and the model has ", classes, " classes");
  return model;
}

void write_huggingface(const std::string& folder, const HuggingFaceModel& model,
                       const FilesBeside& beside) {
  // A model without a head is named without the prefix that tells it from its head.
  const std::string_view prefix = model.architecture == "BertModel" ? "bert." : "";
  std::vector<NewTensor> theirs = model.tensors;
  for (NewTensor& tensor : theirs) {
    tensor.name = huggingface_name(tensor.name).value();
    if (tensor.name.starts_with(prefix)) tensor.name.erase(0, prefix.size());
  }
  write_new_folder(folder, [&](const std::string& temporary) {
    write_tensors(temporary + "/model.safetensors", theirs, {{"format", "pt"}});
    write_durably(temporary + "/config.json", config_json(model));
    copy_into(temporary, beside);
  });
}

}  // namespace stipple::trainer
