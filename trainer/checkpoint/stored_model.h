// SPDX-License-Identifier: Apache-2.0
// A model that was trained, wherever it lies: in a run, in one of its checkpoints, or imported
// (`stipple import`). What it is, and its parameters by name. An imported model is a folder
//
//   models/minilm/
//     model.yaml           the section `model` of a configuration
//     model.safetensors    parameters as ParameterStore names them, and a hash of all of them
//     vocab.txt            where it came with one, and what says how texts are cut
//
//   const StoredModel from("models/minilm");
//   for (const StoredTensor& t : from.tensors()) use(t.name, from.read(t));
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/new_folder.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/config/config.h"

namespace stipple::trainer {

struct StoredTensor {
  std::string name;
  Shape shape;
};

class StoredModel {
 public:
  /// ConfigError where `path` holds none; DataError where all that it holds is damaged. A run stands
  /// for its newest good checkpoint.
  explicit StoredModel(const std::string& path);

  const std::string& path() const { return path_; }
  /// Its sections `model` and `attention` say what it is. An imported one has softmax attention.
  const Config& config() const { return config_; }
  /// TaskInfo's of what it learned, where that is known: wordpiece::Vocabulary::hash() of its
  /// vocabulary, and the names of its classes.
  std::string vocabulary() const;
  const std::vector<std::string>& class_names() const { return manifest_.meta.class_names; }
  bool is_imported() const { return file_.has_value(); }
  /// What learned it, in words of whoever it was imported from; empty: nobody.
  std::string architecture() const;
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  ///< by name
  const StoredTensor* find(std::string_view name) const;
  /// CheckpointError where the file holds no longer what it held.
  std::vector<float> read(const StoredTensor&) const;
  /// The path of a file that an imported model has beside its parameters; empty: it has not.
  std::string file_beside(const std::string& name) const;

 private:
  void open_imported();
  void open_checkpoint();

  std::string path_;
  Config config_;
  std::vector<StoredTensor> tensors_;
  std::optional<SafetensorsFile> file_;  ///< of an imported model
  Manifest manifest_;                    ///< of a checkpoint
};

/// Parameters on their way into a folder.
struct NewTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

/// Writes an imported model: all of it, or nothing. `beside`: files to be copied into it. ConfigError
/// where `folder` exists.
void write_imported(const std::string& folder, const model::ModelConfig&,
                    const std::vector<NewTensor>&, const std::string& architecture,
                    const FilesBeside& beside);

/// A safetensors file of these tensors.
void write_tensors(const std::string& path, const std::vector<NewTensor>&, const TensorMetadata&);

}  // namespace stipple::trainer
