// SPDX-License-Identifier: Apache-2.0
#include "model/attention/combiner/combiner_config.h"

namespace stipple::model {
namespace {

constexpr double kLongest = 1e9;

void describe_cut(CombinerConfig& c, ConfigVisitor& v) {
  v.choice(
      "compat", c.compat, {"none", "official", "paper"},
      {.doc = "A preset of mix, overlap_own, mass_bias, global_tokens and shift_odd_layers, none "
              "of which may then be set to something else: official, as the released code "
              "behaves; paper, as the text describes; none, the keys below."});
  v.choice(
      "variant", c.variant, {"fixed", "logsparse", "vertical", "horizontal", "axial", "mixture"},
      {.doc = "How the sequence is cut. fixed: a token sees its block, and every other block as "
              "a region. logsparse: itself and spans of doubling length. axial: its row of a "
              "grid, and every other row as the token of its own column there sees it. "
              "vertical, horizontal: its row and column, and the rest of each column, or row, "
              "as regions; mixture, both."});
  v.field("block", c.block,
          {.doc = "fixed: tokens of a block. From the longest sequence on it is softmax.",
           .unit = "tokens",
           .min = 1,
           .max = kLongest});
  v.field("rows", c.rows,
          {.doc = "Rows of the grid of axial, vertical, horizontal and mixture. 0: as columns and "
                  "data.max_length ask for.",
           .min = 0,
           .max = kLongest});
  v.field("columns", c.columns,
          {.doc = "Columns of the grid, tokens of a row. 0: as rows and data.max_length ask for; "
                  "near its square root where both are 0.",
           .unit = "tokens",
           .min = 0,
           .max = kLongest});
  v.field("global_tokens", c.global_tokens,
          {.doc = "The first tokens that all see and that see all; they belong to no region, and "
                  "blocks or the grid begin behind them.",
           .unit = "tokens",
           .min = 0,
           .max = kLongest});
  v.field("shift_odd_layers", c.shift_odd_layers,
          {.doc = "fixed: blocks of every other layer begin half a block earlier."});
}

void describe_summary(CombinerConfig& c, ConfigVisitor& v) {
  v.choice(
      "pool", c.pool,
      {"max", "mean", "sum", "relu_max", "relu_mean", "relu_sum", "deepset_max", "deepset_mean",
       "deepset_sum"},
      {.doc = "How queries and keys of a region become one, channel by channel; relu_: after a "
              "rectifier; deepset_: after a matrix, one for queries and one for keys, and a "
              "rectifier. "
              "Not of axial, where a token asks for the region."});
  v.choice(
      "row_key", c.row_key, {"proj", "none", "wsum", "wsum_proj"},
      {.doc = "axial: the key of a row as a token there sees it: none, that token's own; wsum, "
              "the keys of the row by its weights; proj, a projection of the row's values by "
              "its weights and of the token itself, with 2 width squared parameters a layer; "
              "wsum_proj, of the keys."});
  v.choice("mix", c.mix, {"joint", "average"},
           {.doc = "mixture: one softmax over both ways to cut, or the mean of two attentions."});
  v.field("overlap_own", c.overlap_own,
          {.doc = "fixed and axial, not causal: the own block is seen as a region, too, as in the "
                  "released code."});
  v.choice(
      "mass_bias", c.mass_bias, {"none", "log_size", "learned"},
      {.doc = "What is added to a region's score: none, so that it weighs as much as one token; "
              "log_size, the logarithm of its tokens, so that it weighs as much as they; "
              "learned, that times a number of each head that begins at 0."});
}

}  // namespace

void CombinerDropout::describe(ConfigVisitor& v) {
  v.field("direct", direct,
          {.doc = "Of weights of tokens that are seen directly. -1: attention.dropout.",
           .min = -1,
           .max = 0.99});
  v.field("local", local,
          {.doc = "Of weights of tokens within their region.", .min = 0, .max = 0.99});
  v.field("region", region, {.doc = "Of weights of regions.", .min = 0, .max = 0.99});
}

void CombinerConfig::describe(ConfigVisitor& v) {
  describe_cut(*this, v);
  describe_summary(*this, v);
  v.section("dropout", dropout, "Probabilities of dropping a weight in training.");
}

std::vector<std::string_view> CombinerConfig::unused_keys() const {
  std::vector<std::string_view> keys;
  const bool is_fixed = variant == CombinerVariant::kFixed;
  const bool is_axial = variant == CombinerVariant::kAxial;
  if (!is_fixed) keys.insert(keys.end(), {"block", "shift_odd_layers"});
  if (is_fixed || variant == CombinerVariant::kLogsparse)
    keys.insert(keys.end(), {"rows", "columns"});
  if (is_axial) keys.push_back("pool");
  if (!is_axial) keys.push_back("row_key");
  if (!is_fixed && !is_axial) keys.push_back("overlap_own");
  if (variant != CombinerVariant::kMixture) keys.push_back("mix");
  return keys;
}

CombinerConfig CombinerConfig::resolved() const {
  CombinerConfig c = *this;
  if (compat == CombinerCompat::kNone) return c;
  const bool is_official = compat == CombinerCompat::kOfficial;
  c.mix = is_official ? CombinerMix::kJoint : CombinerMix::kAverage;
  c.overlap_own = is_official;
  c.mass_bias = CombinerMassBias::kNone;
  c.global_tokens = 0;
  c.shift_odd_layers = false;
  return c;
}

}  // namespace stipple::model
