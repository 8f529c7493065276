// SPDX-License-Identifier: Apache-2.0
// Whether a page is well-formed and stands alone.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace stipple::trainer {

/// What is wrong with the nesting of the tags or with bare '<' and '&'; empty when nothing is.
inline std::string markup_fault(const std::string& html) {
  std::vector<std::string> open;
  size_t at = html.starts_with("<!DOCTYPE html>") ? 15 : 0;
  for (; at < html.size(); ++at) {
    if (html[at] == '&' && html.find(';', at) > at + 8) return "bare & at " + std::to_string(at);
    if (html[at] != '<') continue;
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return "unclosed tag";
    const std::string tag = html.substr(at + 1, end - at - 1);
    at = end;
    if (tag.find('<') != std::string::npos) return "bare < in " + tag.substr(0, 40);
    if (tag.ends_with('/')) continue;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) return "unexpected <" + tag + ">";
      open.pop_back();
    } else {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return open.empty() ? "" : "never closed: <" + open.back() + ">";
}

inline void expect_sound(const std::string& html) {
  EXPECT_EQ(markup_fault(html), "");
  for (const char* text : {"http:", "https:", "url(", "@import", "<script", "<link"})
    EXPECT_EQ(html.find(text), std::string::npos) << text;
  for (size_t at = 0; (at = html.find("src=", at)) != std::string::npos; ++at)
    EXPECT_TRUE(html.substr(at).starts_with("src=\"data:")) << html.substr(at, 40);
  // A coordinate that is no number draws nothing and hides a bug.
  for (const char* text : {"\"nan", "\"-nan", "\"inf", "\"-inf", " nan", " inf", "Mnan", "Lnan"})
    EXPECT_EQ(html.find(text), std::string::npos) << text;
}

/// What a reader sees: without tags and style; one space where there is any.
inline std::string text_of(std::string html) {
  const size_t style = html.find("<style>");
  if (style != std::string::npos) html.erase(style, html.find("</style>") - style);
  std::string text;
  bool in_tag = false;
  for (const char c : html) {
    if (c == '<') in_tag = true;
    const bool is_space = in_tag || c == ' ' || c == '\n';
    if (!is_space) text += c;
    if (is_space && !text.empty() && text.back() != ' ') text += ' ';
    if (c == '>') in_tag = false;
  }
  return text;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

}  // namespace stipple::trainer
