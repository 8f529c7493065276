// SPDX-License-Identifier: Apache-2.0
// Bases of the visitors behind core/config.h: one that knows where it is, one that sees all keys as
// text.
#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/config/number.h"
#include "core/error.h"

namespace stipple::config {

inline bool has_min(const KeyInfo& info) {
  return info.min > std::numeric_limits<double>::lowest();
}
inline bool has_max(const KeyInfo& info) { return info.max < std::numeric_limits<double>::max(); }

/// "[1, 100]", with a round bracket at an end that is not limited.
inline std::string range_text(const KeyInfo& info) {
  const std::string low = has_min(info) ? detail::concat("[", number_text(info.min)) : "(-inf";
  if (!has_max(info)) return detail::concat(low, ", inf", std::isinf(info.max) ? "]" : ")");
  return detail::concat(low, ", ", number_text(info.max), "]");
}

enum class FieldType : uint8_t { kBool, kInteger, kNumber, kText, kCountOrShare, kChoice };

/// One key of the table as the visitors that only look at it see it.
struct Field {
  std::string key;
  std::string path;
  FieldType type;
  std::string value;
  const KeyInfo& info;
  const std::vector<std::string_view>* names = nullptr;
};

/// Knows the dotted path of the section it is in.
class PathVisitor : public ConfigVisitor {
 protected:
  virtual void begin_section(std::string_view /*key*/, std::string_view /*doc*/) {}
  virtual void end_section() {}

  void nested(std::string_view key, std::string_view doc, FunctionRef<void()> body) override {
    const size_t outer = path_.size();
    begin_section(key, doc);
    path_ += std::string(key) + ".";
    body();
    path_.resize(outer);
    end_section();
  }

  void named_sections(std::string_view key, std::string_view doc,
                      const std::vector<std::string>& names,
                      FunctionRef<void(const std::string& name)> describe) override {
    if (names.empty()) return;
    nested(key, doc, [&] {
      for (const std::string& name : names) nested(name, doc, [&] { describe(name); });
    });
  }

  std::string path_of(std::string_view key) const { return path_ + std::string(key); }
  std::string section_path() const { return path_.substr(0, path_.size() - !path_.empty()); }

 private:
  std::string path_;
};

/// Sees every key with its present value as text.
class FieldVisitor : public PathVisitor {
 public:
  void field(std::string_view key, bool& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kBool, value ? "true" : "false", info));
  }
  void field(std::string_view key, int64_t& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kInteger, std::to_string(value), info));
  }
  void field(std::string_view key, double& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kNumber, number_text(value), info));
  }
  void field(std::string_view key, std::string& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kText, value, info));
  }
  void field(std::string_view key, CountOrShare& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kCountOrShare, value.str(), info));
  }

 protected:
  virtual void on_field(const Field& field) = 0;

  void choice_index(std::string_view key, int64_t& index,
                    const std::vector<std::string_view>& names, const KeyInfo& info) final {
    Field field =
        make(key, FieldType::kChoice, std::string(names.at(static_cast<size_t>(index))), info);
    field.names = &names;
    on_field(field);
  }

 private:
  Field make(std::string_view key, FieldType type, std::string value, const KeyInfo& info) const {
    return {std::string(key), path_of(key), type, std::move(value), info};
  }
};

}  // namespace stipple::config
