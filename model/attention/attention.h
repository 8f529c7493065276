// SPDX-License-Identifier: Apache-2.0
// What every attention is to the encoder: a function of q, k, v with its own parameters, memory and
// gradients. Virtual because a config picks it. The public pair checks shapes, then calls the
// private one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/view.h"
#include "kernels/attend.h"
#include "model/attention/attention_config.h"
#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

struct AttentionShape {
  int64_t num_layers = 1;
  int64_t num_heads = 1;
  int64_t head_dim = 1;
  int64_t max_length = 1;  ///< longest sequence of the task: the m of rates "per key", so that they
                           ///< do not depend on a leaf's length
  bool is_causal = false;  ///< query i sees keys j <= i only; asked of none that cannot be causal
  bool is_packed = false;  ///< rows hold pieces that do not see each other; as is_causal
  std::string name;        ///< prefix of parameter names, "encoder.0.attention"
};

struct AttentionInputs {
  ConstRealView q;     // [B, H, N, D]  to score with: rotated where positions are rotary
  ConstRealView k, v;  // [B, H, M, D]
  /// q and k without their positions, for who chooses or pools keys by what tokens are: a rotation
  /// would mix the phases of tokens. The same memory as q and k unless positions are rotary; given
  /// only to an attention that reads_content().
  ConstRealView content_q = {}, content_k = {};
  /// [B, N, num_heads head_dim]  the input of the sub-layer, after its norm: what q, k and v are
  /// projections of. Given only to an attention that reads_input(); the same memory as the
  /// encoder's own.
  ConstRealView x = {};
  View<const uint8_t> mask;  // [B, N]  real tokens
  /// [B H, N]  of packed rows: tokens of the same group see each other, and no others. Given only to
  /// an attention that can be packed.
  View<const int32_t> groups{};
  View<const uint32_t> samples;  // [B]
  float batch_share = 1.0f;      ///< see model::Input
};

struct AttentionGrads {
  RealView dq, dk, dv;  // written
  /// +=, once dq and dk are written: they share their memory where q and content_q do.
  RealView dcontent_q = {}, dcontent_k = {};
  RealView dx = {};  ///< +=; what q, k and v add comes later. Given only to one that reads_input()
};

/// What others must know of an attention under a configuration.
struct AttentionTraits {
  bool fixed_length = false;        ///< padding takes part: leaves are padded to data.max_length
  bool compares = true;             ///< queries with keys; otherwise they learn nothing
  bool has_graph = false;           ///< it tells one to ctx.graphs
  int64_t graph_groups = 0;         ///< AttentionGraph::groups, before anything is drawn
  bool over_edges = false;          ///< computed over a graph that is there before: by who
                                    ///< AttentionConfig::implementation says
  bool can_be_causal = false;       ///< it obeys AttentionShape::is_causal
  bool can_be_packed = false;       ///< it obeys AttentionInputs::groups
  std::string_view if_causal = {};  ///< "key=value" with which it could be, where there is one
};

class Attention {
 public:
  /// What forward leaves for backward. Made once per call site, refilled every step.
  struct Saved {
    virtual ~Saved() = default;
  };

  virtual ~Attention() = default;
  virtual std::unique_ptr<Saved> make_saved() const = 0;
  /// Whether the content views of AttentionInputs are wanted.
  virtual bool reads_content() const { return false; }
  /// Whether AttentionInputs::x is wanted.
  virtual bool reads_input() const { return false; }
  /// Before the first forward of a training step, on every rank: for what follows the step that
  /// `rng` names. What it sets stands among the parameters, so that checkpoints keep it.
  virtual void begin_step(const Stream&, const RngKey& /*rng*/) const {}
  /// For a sequence that is given token by token: memory for `longest` tokens of it, one sequence.
  /// null: it has no way of its own, and sees all tokens anew each time.
  virtual std::unique_ptr<AttentionCache> make_cache(Arena&, const Stream&,
                                                     int64_t /*longest*/) const {
    return nullptr;
  }
  /// Gives ctx.graphs the graphs of the last forward that it wants. Waits for the stream.
  virtual void tell_graphs(Context&, const AttentionInputs&, const Saved&) const {}
  /// Where ctx.decoding is given, by this layer's cache: the inputs are of one token, N = 1.
  void forward(Context&, const AttentionInputs&, RealView out, Saved&) const;
  void backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                const Saved&, const AttentionGrads&) const;

 private:
  virtual void do_forward(Context&, const AttentionInputs&, RealView out, Saved&) const = 0;
  virtual void do_decode(Context&, const AttentionInputs&, RealView out, AttentionCache&) const;
  virtual void do_backward(Context&, const AttentionInputs&, ConstRealView out, ConstRealView dout,
                           const Saved&, const AttentionGrads&) const = 0;
};

/// Of attention weights in this pass; none in evaluation. kept: as in AttentionDropout.
kernels::AttentionDropout dropout_of(const Context&, const AttentionInputs&, float rate,
                                     View<uint32_t> kept);
/// What of a pattern's pairs lies within groups, where there are some: its kind is kAll then.
kernels::Pattern within_groups(kernels::Pattern, const AttentionInputs&);
/// Whether there is any.
bool drops(const Context&, float rate);

/// registry.cpp: an explicit table, one line per attention. ConfigError where it is to be causal and
/// cannot be.
std::unique_ptr<Attention> make_attention(const AttentionConfig&, ParameterStore&, FactTable&,
                                          const AttentionShape&);

/// Makes the attention of a block, which declares its parameters and facts there and then.
using AttentionFactory = std::function<std::unique_ptr<Attention>(const AttentionShape&)>;

}  // namespace stipple::model
