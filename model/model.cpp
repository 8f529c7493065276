// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "kernels/activation.h"
#include "model/encoder.h"
#include "model/heads.h"
#include "model/language_head.h"
#include "model/layers/embedding.h"
#include "model/masked_head.h"
#include "model/rows.h"

namespace stipple::model {
namespace {

bool is_language_model(const ModelTask& task) { return task.fields.label == LabelKind::kNextToken; }
bool is_masked_model(const ModelTask& task) { return task.fields.label == LabelKind::kMaskedToken; }

EncoderConfig encoder_config(const ModelConfig& config, const ModelTask& task) {
  STIPPLE_CHECK_AS(ConfigError, config.width % config.heads == 0, "model.width (", config.width,
                   ") must be a multiple of model.heads (", config.heads, ")");
  const bool rotary = config.positions == Positions::kRotary;
  STIPPLE_CHECK_AS(ConfigError, !rotary || config.width / config.heads % 2 == 0,
                   "model.positions: rotary turns pairs of channels, and a head has ",
                   config.width / config.heads, " (model.width / model.heads)");
  return {.layers = config.layers,
          .width = config.width,
          .heads = config.heads,
          .feedforward = config.feedforward,
          .max_length = task.max_length,
          .dropout = config.dropout,
          .is_causal = config.causal || is_language_model(task),
          .is_packed = task.fields.is_packed,
          .rotary = rotary,
          .norm = config.norm,
          .norm_eps = config.norm_eps};
}

EmbeddingConfig embedding_config(const ModelConfig& config, const ModelTask& task) {
  STIPPLE_CHECK_AS(ConfigError,
                   config.max_positions == 0 || config.max_positions >= task.max_length,
                   "model.max_positions: ", config.max_positions, " are fewer than the ",
                   task.max_length, " tokens that an example may have (data.max_length)");
  return {.vocab_size = task.vocab_size,
          .max_positions = config.max_positions > 0 ? config.max_positions : task.max_length,
          .segments = std::max(config.segments, task.fields.segments),
          .width = config.width,
          .positions = config.positions,
          .dropout = config.dropout,
          .has_norm = config.norm == NormPlace::kPost,
          .norm_eps = config.norm_eps};
}

HeadConfig head_config(const ModelConfig& config, const ModelTask& task) {
  return {.width = config.width,
          .hidden = config.head_hidden,
          .num_classes = task.num_classes,
          .fields = task.fields,
          .mean_over = config.mean_over,
          .max_length = task.max_length,
          .has_pooler = config.pooler,
          .dropout = config.dropout};
}

}  // namespace

void ModelConfig::describe(ConfigVisitor& v) {
  v.field("layers", layers, {.doc = "Encoder blocks.", .min = 1, .max = 4095});
  constexpr double kMaxWidth = 1048576;  // so that products of widths fit into 64 bits
  v.field("width", width,
          {.doc = "Size of a token's vector; a multiple of heads.", .min = 1, .max = kMaxWidth});
  v.field("heads", heads, {.doc = "Attention heads.", .min = 1, .max = 4095});
  v.field("feedforward", feedforward,
          {.doc = "Hidden units of the feed-forward half of a block.", .min = 1, .max = kMaxWidth});
  v.field("head_hidden", head_hidden,
          {.doc = "Hidden units of the classifier.", .min = 1, .max = kMaxWidth});
  v.field("dropout", dropout,
          {.doc = "Probability of dropping an activation in training.", .min = 0, .max = 0.99});
  v.field("causal", causal,
          {.doc = "Tokens see themselves and earlier tokens only, as where the next one is to be "
                  "told. Not every attention can."});
  v.choice("positions", positions, {"learned", "sinusoidal", "rotary"},
           {.doc = "How the model tells where a token stands: learned, a vector for each of "
                   "data.max_length positions; sinusoidal, fixed sines; rotary, queries and keys "
                   "are rotated, so that scores depend on distances (width / heads is even)."});
  v.field("max_positions", max_positions,
          {.doc = "Rows of the table of learned positions; 0: data.max_length. A model that begins "
                  "from another one needs that one's.",
           .unit = "tokens",
           .min = 0,
           .max = 65536});
  v.field(
      "segments", segments,
      {.doc = "Kinds of tokens that have a vector which is added to theirs (BERT: 2), where the "
              "task does not tell more apart; where it tells none, all are of the first kind.",
       .min = 0,
       .max = 1024});
  v.choice(
      "norm", norm, {"pre", "post"},
      {.doc = "Where blocks normalise: pre, what a branch reads, and once after the last block; "
              "post, as BERT, the sum of a branch and what it branched off from, and the "
              "embedding."});
  v.field("norm_eps", norm_eps,
          {.doc = "What layer norms add to a variance; BERT: 1e-12.", .min = 0, .max = 1});
  v.choice("mean_over", mean_over, {"padded", "valid", "cls"},
           {.doc = "What a sequence is pooled over: all positions up to data.max_length (padding "
                   "adds zeros), its tokens, or its first token only."});
  v.field("pooler", pooler,
          {.doc = "BERT's head in place of the classifier with head_hidden units: what is pooled "
                  "(BERT: mean_over=cls) goes through a layer of its own width, tanh, dropout and "
                  "one layer to the outputs. Not where tokens have labels."});
  v.choice("init", init, {"modules", "bert"},
           {.doc = "Values that linear layers and embeddings begin with: modules, uniform by the "
                   "width that a layer reads, tables of deviation 0.02 (1 with sinusoidal "
                   "positions); bert, normal of deviation 0.02, redrawn beyond two of them, and "
                   "biases of 0."});
}

struct Model::Parts {
  Parts(ParameterStore& parameters, FactTable& facts, const ModelConfig& config,
        const AttentionConfig& attention, const ModelTask& model_task)
      : store(parameters),
        width(config.width),
        task(model_task),
        embedding(parameters, "embedding", embedding_config(config, task)),
        encoder(parameters, encoder_config(config, task),
                [&](const AttentionShape& shape) {
                  return make_attention(attention, parameters, facts, shape);
                }),
        classifier(make_classifier(parameters, facts, config)),
        language_head(make_language_head(facts, attention.combiner.block)),
        masked_head(make_masked_head(parameters, facts, config)),
        relation_head(make_relation_head(parameters, facts, config)) {}

  std::optional<Head> make_classifier(ParameterStore& parameters, FactTable& facts,
                                      const ModelConfig& config) const {
    if (is_language_model(task) || is_masked_model(task)) return std::nullopt;
    return Head(parameters, facts, "head", head_config(config, task));
  }
  /// Whatever the attention: softmax tells its losses by the places of another's blocks, to be
  /// compared with.
  std::optional<LanguageHead> make_language_head(FactTable& facts, int64_t block) const {
    if (!is_language_model(task)) return std::nullopt;
    return LanguageHead(store, facts,
                        {.table = embedding.table(),
                         .logit_scale = embedding.logit_scale(),
                         .block = std::min(block, task.max_length)});
  }

  std::optional<MaskedHead> make_masked_head(ParameterStore& parameters, FactTable& facts,
                                             const ModelConfig& config) const {
    if (!is_masked_model(task)) return std::nullopt;
    STIPPLE_CHECK_AS(ConfigError, !config.causal,
                     "model.causal: masked tokens are told by what comes after them, too; use "
                     "model.causal=false");
    return MaskedHead(parameters, facts, "masked_head",
                      {.width = width, .table = embedding.table(), .norm_eps = config.norm_eps});
  }

  /// BERT's head of pairs: its pooler, where classifiers have theirs, without dropout, and two classes.
  std::optional<Head> make_relation_head(ParameterStore& parameters, FactTable& facts,
                                         const ModelConfig& config) const {
    if (!task.fields.has_relation) return std::nullopt;
    HeadConfig head = head_config(config, task);
    head.fields = {.label = LabelKind::kClass};
    head.num_classes = 2;
    head.mean_over = kernels::MeanOver::kCls;
    head.has_pooler = true;
    head.dropout = 0;
    head.out_name = "relation";
    head.fact_prefix = "relation_";
    return Head(parameters, facts, "head", head);
  }

  void check(const Input& input) const;
  void masked_backward(Context&, const Input&, const Saved&, View<float> dx) const;

  // Declaration order is forward order: the parameter store lays gradients out by it.
  const ParameterStore& store;
  int64_t width;
  ModelTask task;
  Embedding embedding;
  Encoder encoder;
  // One of the three.
  std::optional<Head> classifier;
  std::optional<LanguageHead> language_head;
  std::optional<MaskedHead> masked_head;
  std::optional<Head> relation_head;  ///< beside the masked one, of tasks that have relations
};

struct Model::Saved {
  Embedding::Saved embedding;
  Encoder::Saved encoder;
  Head::Saved classifier;
  LanguageHead::Saved language_head;
  MaskedHead::Saved masked_head;
  Head::Saved relation_head;
};

namespace {

/// What the head of relations sees as labels.
Input of_relations(const Input& input) {
  Input of = input;
  of.labels = input.relations;
  of.loss_scale = input.relation_scale;
  return of;
}

}  // namespace

void Model::Parts::check(const Input& input) const {
  STIPPLE_CHECK_AS(ShapeError, input.ids.shape.rank() == 2, "model: ids must be [R, N], got ",
                   input.ids.shape.str());
  const int64_t length = input.ids.shape[1];
  STIPPLE_CHECK_AS(ShapeError, length <= task.max_length, "model: a leaf of length ", length,
                   " does not fit a model of max_length ", task.max_length);
  const LeafSizes sizes{task.fields, input.ids.shape[0] / task.fields.sequences, length};
  for_each_array(
      sizes,
      [](const auto& array, const auto& view) {
        STIPPLE_CHECK_AS(ShapeError, view.shape == array.shape, "model: ", array.name,
                         " has shape ", view.shape.str(), ", expected ", array.shape.str());
      },
      input);
}

/// By the loss of masked tokens and that of relations. dx written.
void Model::Parts::masked_backward(Context& ctx, const Input& input, const Saved& saved,
                                   View<float> dx) const {
  if (!relation_head) return masked_head->backward(ctx, saved.masked_head, dx);
  Arena::Scope scope(ctx.scratch);
  const View<float> drelation = ctx.scratch.alloc<float>(dx.shape);
  relation_head->backward(ctx, of_relations(input), saved.relation_head, drelation);
  masked_head->backward(ctx, saved.masked_head, dx);
  kernels::add(ctx.stream, {.y = dx, .a = dx, .b = drelation});
}

Model::Model(ParameterStore& store, FactTable& facts, const ModelConfig& config,
             const AttentionConfig& attention, const ModelTask& task)
    : parts_(std::make_unique<Parts>(store, facts, config, attention, task)) {}

Model::~Model() = default;

std::unique_ptr<Model::Saved, void (*)(Model::Saved*)> Model::make_saved() const {
  auto saved = std::make_unique<Saved>();
  saved->encoder = parts_->encoder.make_saved();
  return {saved.release(), [](Saved* s) { delete s; }};
}

void Model::begin_step(const Stream& stream, const RngKey& rng) const {
  parts_->encoder.begin_step(stream, rng);
}

void Model::encode(Context& ctx, const Input& input, Saved& saved, View<float> encoded) const {
  const View<float> embedded = ctx.saved.alloc<float>(encoded.shape);
  parts_->embedding.forward(ctx, input, embedded, saved.embedding);
  parts_->encoder.forward(ctx, input, embedded, encoded, saved.encoder);
}

void Model::forward(Context& ctx, const Input& input, Saved& saved,
                    View<int32_t> prediction) const {
  parts_->check(input);
  const View<float> encoded =
      ctx.saved.alloc<float>({input.ids.shape[0], input.ids.shape[1], parts_->width});
  encode(ctx, input, saved, encoded);
  if (parts_->classifier) {
    parts_->classifier->forward(ctx, input, encoded, prediction, saved.classifier);
  } else if (parts_->language_head) {
    parts_->language_head->forward(ctx, input, encoded, prediction, saved.language_head);
  } else {
    STIPPLE_CHECK(prediction.empty(), "a masked language model predicts no classes of all tokens");
    parts_->masked_head->forward(ctx, input, encoded, saved.masked_head);
    if (parts_->relation_head)
      parts_->relation_head->forward(ctx, of_relations(input), encoded, {}, saved.relation_head);
  }
}

void Model::masked_logits(Context& ctx, View<const float> encoded, View<float> logits) const {
  STIPPLE_CHECK(parts_->masked_head && !ctx.training,
                "masked_logits: of a masked language model only");
  parts_->masked_head->logits(ctx, encoded, logits);
}

void Model::pooled(Context& ctx, const Input& input, View<const float> encoded,
                   View<float> pooled) const {
  STIPPLE_CHECK(parts_->classifier && !ctx.training, "pooled: of a classifier only");
  parts_->classifier->pooled(ctx, input, encoded, pooled);
}

void Model::next_logits(Context& ctx, const Input& input, Saved& saved, View<float> logits) const {
  STIPPLE_CHECK(parts_->language_head && !ctx.training, "next_logits: of a language model only");
  const int64_t tokens = input.ids.shape[1];
  const View<float> encoded = ctx.saved.alloc<float>({1, tokens, parts_->width});
  encode(ctx, input, saved, encoded);
  const View<float> last = rows_from(encoded.reshape({tokens, parts_->width}), tokens - 1);
  parts_->language_head->logits(ctx, last, logits);
}

std::vector<std::unique_ptr<AttentionCache>> Model::make_caches(Arena& arena, const Stream& stream,
                                                                int64_t longest) const {
  return parts_->encoder.make_caches(arena, stream, longest);
}

void Model::backward(Context& ctx, const Input& input, Saved& saved, int64_t frozen_stages) const {
  STIPPLE_CHECK(ctx.training, "backward needs a forward in training mode");
  Arena::Scope scope(ctx.scratch);
  const View<float> dx =
      ctx.scratch.alloc<float>({input.ids.shape[0], input.ids.shape[1], parts_->width});
  if (parts_->classifier) {
    parts_->classifier->backward(ctx, input, saved.classifier, dx);
  } else if (parts_->language_head) {
    parts_->language_head->backward(ctx, saved.language_head, dx);
  } else {
    parts_->masked_backward(ctx, input, saved, dx);
  }
  parts_->encoder.backward(ctx, input, saved.encoder, dx, frozen_stages - 1);
  if (frozen_stages == 0) parts_->embedding.backward(ctx, saved.embedding, dx);
  ctx.observer.grads_ready(
      parts_->store.range(parts_->embedding.first(), parts_->embedding.last()));
}

}  // namespace stipple::model
