// SPDX-License-Identifier: Apache-2.0
// The `data` section of a configuration and the table of tasks.
#pragma once

#include <memory>
#include <string>

#include "core/config.h"
#include "data/dataset.h"
#include "data/glue/benchmark.h"
#include "data/mlm/masking.h"
#include "data/mlm/pairs.h"
#include "data/wordpiece/wordpiece.h"

namespace stipple::data {

enum class TaskKind : uint8_t { kListops, kRepeatedToken, kTextLm, kImageLm, kGlue, kTsv, kMlm };

/// "Does this token occur again in the sequence": `sequence` integers drawn uniformly
/// from 1..sequence; the synthetic task of the SBM-Transformer paper.
struct RepeatedTokenConfig {
  int64_t sequence = 256;
  int64_t train_examples = 0;  ///< 0: endless, every step sees new sequences
  int64_t eval_examples = 512;
  void describe(ConfigVisitor&);
};

/// Plain text, byte by byte.
enum class TextDocuments : uint8_t { kFile, kBlankLine };
struct TextLmConfig {
  TextDocuments documents = TextDocuments::kFile;
  bool pack = false;
  void describe(ConfigVisitor&);
};

/// Pictures, value by value.
struct ImageLmConfig {
  int64_t side = 32;
  void describe(ConfigVisitor&);
};

/// A task of GLUE.
struct GlueConfig {
  glue::TaskId task = glue::TaskId::kMrpc;
  void describe(ConfigVisitor&);
};

/// Texts and labels of tsv files of one's own.
struct TsvConfig {
  std::string train = "train.tsv", validation = "dev.tsv", test = "test.tsv";
  bool header = true;
  std::string text = "sentence";
  std::string second_text;
  std::string label = "label";
  std::string labels;
  void describe(ConfigVisitor&);
};

/// Words of plain text or shards of which some are masked.
struct MlmConfig {
  std::string shards;  ///< prefixes, with weights (data/shards/mixture.h); empty: plain text
  TextDocuments documents = TextDocuments::kFile;
  bool pack = true;
  bool share_rows = false;
  PairsConfig pairs;
  MaskingConfig masking;
  double eval_rate = 0.15;
  void describe(ConfigVisitor&);
};

struct DataConfig {
  TaskKind task = TaskKind::kListops;
  std::string dir = "datasets/listops";  ///< folder of the files
  std::string files = "*.txt";           ///< patterns of their names, of tasks without fixed ones
  int64_t max_length = 2048;             ///< sequences are cut to this; the model's padded length
  bool skip_bad_rows = false;
  std::string vocab;  ///< path of a vocab.txt, of tasks of words
  bool lower_case = true;
  wordpiece::Profile wordpiece_profile = wordpiece::Profile::kGoogle;
  double val_fraction = 0;  ///< of the training examples; 0: validation has a file
  RepeatedTokenConfig repeated_token;
  TextLmConfig text_lm;
  ImageLmConfig image_lm;
  GlueConfig glue;
  TsvConfig tsv;
  MlmConfig mlm;
  void describe(ConfigVisitor&);
};

/// Whether the task asks for the next token, which makes its models causal.
bool predicts_next_token(TaskKind);

/// registry.cpp: an explicit table, one line per task. `seed` feeds tasks that make their own
/// examples.
std::unique_ptr<Task> make_task(const DataConfig&, uint64_t seed);

}  // namespace stipple::data
