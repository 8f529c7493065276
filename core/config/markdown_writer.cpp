// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/config/visitors.h"

namespace stipple {
namespace config {
namespace {

using detail::concat;

class MarkdownWriter final : public FieldVisitor {
 public:
  MarkdownWriter() { sections_.push_back({"", "Keys outside any section.", ""}); }

  std::string text() const {
    std::string all;
    for (const Section& section : sections_) {
      if (section.rows.empty()) continue;
      all += concat("\n## ", section.path.empty() ? "Top level" : "`" + section.path + "`", "\n\n",
                    section.doc, "\n\n| key | default | allowed | unit | meaning |\n",
                    "|---|---|---|---|---|\n", section.rows);
    }
    return all;
  }

 private:
  struct Section {
    std::string path;
    std::string doc;
    std::string rows;
  };

  static std::string cell(std::string_view text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '|') escaped += '\\';
      escaped += c == '\n' ? ' ' : c;
    }
    return escaped;
  }

  static std::string limits(const KeyInfo& info) {
    if (has_min(info) && has_max(info)) return concat(" in ", range_text(info));
    if (has_min(info)) return concat(" >= ", number_text(info.min));
    return has_max(info) ? concat(" <= ", number_text(info.max)) : "";
  }

  static std::string allowed(const Field& field) {
    const std::string range = limits(field.info);
    switch (field.type) {
      case FieldType::kBool:
        return "`true`, `false`";
      case FieldType::kInteger:
        return "whole number" + range;
      case FieldType::kNumber:
        return "number" + range;
      case FieldType::kText:
        return "text";
      case FieldType::kCountOrShare:
        return concat("whole number", range, ", or a share of `", field.info.share_of, "`: `10%`");
      case FieldType::kChoice:
        break;
    }
    std::string list;
    for (const std::string_view name : *field.names) {
      list += concat(list.empty() ? "`" : ", `", name, "`");
    }
    return list;
  }

  void on_field(const Field& field) override {
    const std::string value = field.value.empty() ? "\"\"" : field.value;
    current().rows += concat("| `", field.path, "` | `", cell(value), "` | ", cell(allowed(field)),
                             " | ", cell(field.info.unit), " | ", cell(field.info.doc), " |\n");
  }
  void begin_section(std::string_view key, std::string_view doc) override {
    sections_.push_back({path_of(key), std::string(doc), ""});
  }
  void named_sections(std::string_view key, std::string_view doc, const std::vector<std::string>&,
                      FunctionRef<void(const std::string& name)> describe) override {
    FieldVisitor::named_sections(key, doc, {std::string(kAnyName)}, describe);
  }
  Section& current() {
    const std::string path = section_path();
    return *std::find_if(sections_.begin(), sections_.end(),
                         [&](const Section& section) { return section.path == path; });
  }

  std::vector<Section> sections_;
};

}  // namespace
}  // namespace config

std::string config_to_markdown(Describe describe) {
  config::MarkdownWriter writer;
  describe(writer);
  return writer.text();
}

}  // namespace stipple
