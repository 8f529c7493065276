// SPDX-License-Identifier: Apache-2.0
// The keys that exist, and what to say about those that do not. Where users choose names, any will
// do: the table has "train.phases.*.steps", and has_field("train.phases.first.steps").
#pragma once

#include <string>
#include <vector>

#include "core/config/visitors.h"

namespace stipple::config {

class KeyTable final : public FieldVisitor {
 public:
  explicit KeyTable(Describe describe) { describe(*this); }

  bool has_field(const std::string& path) const;
  bool has_section(const std::string& path) const;
  /// Whether the last part of a section's path is a name that a section may have.
  static bool is_name(const std::string& path);

  /// What to do about `key`, which does not exist in `section` ("" at the top).
  std::string advice(const std::string& section, const std::string& key) const;

 private:
  void begin_section(std::string_view key, std::string_view doc) override;
  void on_field(const Field& field) override;
  void named_sections(std::string_view key, std::string_view doc, const std::vector<std::string>&,
                      FunctionRef<void(const std::string& name)> describe) override {
    FieldVisitor::named_sections(key, doc, {std::string(kAnyName)}, describe);
  }

  /// The path with a star in place of each name that a user chose.
  std::string general(const std::string& path) const;
  std::vector<std::string> keys_in(const std::string& prefix) const;
  std::string same_name_elsewhere(const std::string& key) const;
  std::string nearest_elsewhere(const std::string& key) const;

  std::vector<std::string> all_, fields_, sections_;
};

}  // namespace stipple::config
