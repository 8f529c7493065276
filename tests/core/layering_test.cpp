// SPDX-License-Identifier: Apache-2.0
// The design as a test: who may include whom, and that the catalogues of the tree are complete.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
const fs::path kRoot = STIPPLE_SOURCE_DIR;
const std::vector<std::string> kLayers = {"core", "kernels", "comm", "data", "model", "trainer"};

struct Include {
  std::string file;
  std::string target;
  bool angled = false;
};

std::vector<fs::path> sources(const std::string& folder) {
  std::vector<fs::path> result;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".h" || extension == ".cpp") result.push_back(entry.path());
  }
  return result;
}

std::vector<Include> includes(const std::string& folder) {
  static const std::regex pattern("^\\s*#include ([<\"])([^>\"]+)[>\"]");
  std::vector<Include> result;
  for (const fs::path& path : sources(folder)) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      std::smatch match;
      if (std::regex_search(line, match, pattern)) {
        result.push_back({fs::relative(path, kRoot).string(), match[2], match[1] == "<"});
      }
    }
  }
  return result;
}

TEST(Layering, ALayerIncludesOnlyWhatItMayUse) {
  const std::map<std::string, std::set<std::string>> allowed = {
      {"core", {"core"}},
      {"kernels", {"core", "kernels"}},
      {"comm", {"core", "comm"}},
      {"data", {"core", "data"}},
      {"model", {"core", "kernels", "model"}},
      {"trainer", {"core", "kernels", "comm", "data", "model", "trainer"}},
  };
  size_t checked = 0;
  for (const std::string& layer : kLayers) {
    for (const Include& include : includes(layer)) {
      if (include.angled) continue;
      const std::string target = include.target.substr(0, include.target.find('/'));
      EXPECT_TRUE(allowed.at(layer).count(target))
          << include.file << " includes " << include.target;
      ++checked;
    }
  }
  EXPECT_GT(checked, 100u);
}

TEST(Layering, LibrariesStayBehindTheirOwnFiles) {
  const std::map<std::string, std::string> homes = {
      {"mpi.h", "comm/mpi/"},
      {"yaml-cpp/", "core/yaml_tree.cpp"},
      {"CLI/", "trainer/main.cpp"},
      {"dnnl", "kernels/cpu/"},
  };
  for (const std::string& layer : kLayers) {
    for (const Include& include : includes(layer)) {
      for (const auto& [library, home] : homes) {
        if (!include.angled || include.target.rfind(library, 0) != 0) continue;
        EXPECT_EQ(include.file.rfind(home, 0), 0u)
            << include.file << " includes " << include.target;
        EXPECT_TRUE(include.file.ends_with(".cpp")) << include.file << " shows " << include.target;
      }
    }
  }
}

TEST(Layering, EveryFileNamesItsLicence) {
  for (const char* layer :
       {"core", "kernels", "comm", "data", "model", "trainer", "tests", "bench"}) {
    for (const fs::path& path : sources(layer)) {
      std::ifstream in(path);
      std::string first;
      std::getline(in, first);
      EXPECT_EQ(first, "// SPDX-License-Identifier: Apache-2.0") << path;
    }
  }
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Catalogue, EveryOperationHasAFrontAndACpuBody) {
  size_t operations = 0;
  for (const auto& entry : fs::directory_iterator(kRoot / "kernels")) {
    if (entry.path().extension() != ".h") continue;
    // Headers without operations describe how work is cut.
    if (read_file(entry.path()).find("(const Stream&, const ") == std::string::npos) continue;
    const std::string stem = entry.path().stem().string();
    EXPECT_TRUE(fs::exists(kRoot / "kernels" / (stem + ".cpp"))) << stem;
    EXPECT_TRUE(fs::exists(kRoot / "kernels/cpu" / (stem + ".cpp"))) << stem;
    EXPECT_TRUE(fs::exists(kRoot / "tests/kernels" / (stem + "_test.cpp"))) << stem;
    ++operations;
  }
  EXPECT_GE(operations, 10u);
}

TEST(Catalogue, EveryAttentionIsRegisteredDocumentedAndTested) {
  const std::string registry = read_file(kRoot / "model/attention/registry.cpp");
  for (const auto& entry : fs::directory_iterator(kRoot / "model/attention")) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    EXPECT_NE(registry.find(name), std::string::npos) << name << " is not in registry.cpp";
    EXPECT_TRUE(fs::exists(entry.path() / "README.md")) << name;
    EXPECT_TRUE(fs::exists(kRoot / "tests/model" / (name + "_attention_test.cpp"))) << name;
  }
}

}  // namespace
