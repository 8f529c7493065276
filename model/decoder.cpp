// SPDX-License-Identifier: Apache-2.0
#include "model/decoder.h"

#include "core/copy.h"
#include "core/error.h"
#include "model/planning_run.h"

namespace stipple::model {

Decoder::Tokens Decoder::alloc_tokens(Arena& arena, const DecoderOptions& options) {
  return {.ids = arena.alloc<int32_t>({1, options.longest}),
          .mask = arena.alloc<uint8_t>({1, options.longest}),
          .samples = arena.alloc<uint32_t>({1}),
          .logits = arena.alloc<float>({1, options.vocabulary})};
}

Input Decoder::input_of(const Tokens& arrays, int64_t tokens) {
  Input input;
  input.ids = {arrays.ids.data, {1, tokens}};
  input.mask = {arrays.mask.data, {1, tokens}};
  input.samples = arrays.samples;
  return input;
}

/// The longest pass needs the most: the last one.
DecoderBytes Decoder::plan(const Model& model, const FactTable& facts, DeviceType device,
                           const Stream::Options& stream_options, const DecoderOptions& options) {
  PlanningRun run(device, stream_options, facts);
  Arena kept("kept", run.stream().device());
  const Tokens tokens = alloc_tokens(kept, options);
  Decoding decoding{.position = options.longest - 1,
                    .caches = model.make_caches(kept, run.stream(), options.longest)};
  const bool has_cache = !decoding.caches.empty();
  Context ctx = run.begin(/*training=*/false);
  if (has_cache) ctx.decoding = &decoding;
  const auto saved = model.make_saved();
  model.next_logits(ctx, input_of(tokens, has_cache ? 1 : options.longest), *saved, tokens.logits);
  return {.kept = kept.peak(), .saved = run.saved_bytes(), .scratch = run.scratch_bytes()};
}

Decoder::Decoder(const Model& model, const FactTable& facts, const Stream& stream,
                 const DecoderOptions& options)
    : Decoder(model, facts, stream, options,
              plan(model, facts, stream.device().type,
                   {.threads = stream.threads(), .precision = stream.precision()}, options)) {}

Decoder::Decoder(const Model& model, const FactTable& facts, const Stream& stream,
                 const DecoderOptions& options, const DecoderBytes& bytes)
    : model_(model),
      facts_(facts),
      stream_(stream),
      options_(options),
      saved_of_model_(model.make_saved()),
      kept_("kept", stream.device(), bytes.kept),
      saved_("saved", stream.device(), bytes.saved),
      scratch_("scratch", stream.device(), bytes.scratch),
      told_(stream.device(), facts.bytes()),
      tokens_(alloc_tokens(kept_, options)),
      decoding_{.caches = model.make_caches(kept_, stream, options.longest)},
      logits_(static_cast<size_t>(options.vocabulary)) {
  const std::vector<uint8_t> ones(static_cast<size_t>(options.longest), 1);
  upload(stream, tokens_.mask, ones);
  fill_zero(stream, tokens_.samples);
}

std::span<const float> Decoder::next(int32_t token) {
  STIPPLE_CHECK(!is_full(), "decoder: ", length_, " tokens are all it has room for");
  saved_.rewind(0);
  Context ctx{.stream = stream_,
              .saved = saved_,
              .scratch = scratch_,
              .rng = {},
              .training = false,
              .observer = nobody_,
              .facts = {facts_, told_.data()}};
  decoding_.position = length_;
  if (has_cache()) ctx.decoding = &decoding_;
  const int64_t place = has_cache() ? 0 : length_;
  upload(stream_, View<int32_t>{tokens_.ids.data + place, {1}}, std::span(&token, 1));
  model_.next_logits(ctx, input_of(tokens_, place + 1), *saved_of_model_, tokens_.logits);
  download(stream_, std::span(logits_), tokens_.logits);
  ++length_;
  return logits_;
}

}  // namespace stipple::model
