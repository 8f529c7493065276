// SPDX-License-Identifier: Apache-2.0
// BERT models as `transformers` keeps them, from and to models of ours: a folder with config.json and
// model.safetensors, beside the tokenizer's files. One table has the names of both sides. What this
// program would compute differently is refused by name.
//
//   const HuggingFaceModel bert = read_huggingface("bert-base-uncased");
//   write_huggingface("out", to_huggingface(StoredModel("models/minilm"), {}));
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint/stored_model.h"

namespace stipple::trainer {

/// "encoder.3.query.weight" <-> "bert.encoder.layer.3.attention.self.query.weight"; none: the other
/// side has no such tensor.
std::optional<std::string> huggingface_name(std::string_view ours);
std::optional<std::string> our_name(std::string_view theirs);

struct HuggingFaceModel {
  std::string architecture;  ///< the class that reads it: "BertModel", "BertForMaskedLM", ...
  model::ModelConfig config = {};
  std::vector<NewTensor> tensors = {};   ///< by our names
  std::vector<std::string> notes = {};   ///< what was left out, for a person
  std::vector<std::string> labels = {};  ///< names of its classes
};

/// ConfigError, one line that names the file and the key or tensor: no BERT, an activation or positions
/// that this program has not, a tensor that is missing, unknown or of another shape. Tensors of fp32,
/// fp16 and bf16, all as fp32.
HuggingFaceModel read_huggingface(const std::string& folder);

/// ConfigError naming the key or tensor where BERT has nothing like it. `labels`: names of the classes in
/// their order; none: the task's, where they are known, or else LABEL_0, LABEL_1, ...
HuggingFaceModel to_huggingface(const StoredModel&, const std::vector<std::string>& labels);

/// All of it, or nothing. `beside`: files to be copied into it. ConfigError where `folder` exists.
void write_huggingface(const std::string& folder, const HuggingFaceModel&,
                       const FilesBeside& beside);

}  // namespace stipple::trainer
