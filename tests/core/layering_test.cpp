// SPDX-License-Identifier: Apache-2.0
// The design as a test: who may include whom, and that the catalogues of the tree are complete.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/source_folder.h"

namespace {

namespace fs = std::filesystem;
const fs::path kRoot = stipple::test::source_folder();
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
    static const std::set<std::string> kinds = {".h", ".cpp", ".cu", ".cuh"};
    if (kinds.count(extension) > 0) result.push_back(entry.path());
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
      // The one door to hardware is also where the emulation comes in.
      if (include.file == "kernels/cuda/device.cuh" && include.target == "cuda_on_cpu/device.h")
        continue;
      const std::string target = include.target.substr(0, include.target.find('/'));
      EXPECT_TRUE(allowed.at(layer).count(target))
          << include.file << " includes " << include.target;
      ++checked;
    }
  }
  EXPECT_GT(checked, 100u);
}

/// Rooms of one layer, lower ones first: a file includes its own room's headers and lower rooms'.
void expect_rooms_in_order(const std::string& layer, const std::vector<std::string>& rooms) {
  const auto height = [&](const std::string& file) {
    for (size_t i = 0; i < rooms.size(); ++i) {
      if (file.rfind(layer + "/" + rooms[i] + "/", 0) == 0) return static_cast<int>(i);
    }
    return file.ends_with("main.cpp") ? static_cast<int>(rooms.size()) : -1;
  };
  size_t checked = 0;
  for (const Include& include : includes(layer)) {
    if (include.angled || include.target.rfind(layer + "/", 0) != 0) continue;
    EXPECT_LE(height(include.target), height(include.file))
        << include.file << " includes " << include.target << " of a higher room";
    ++checked;
  }
  EXPECT_GT(checked, 20u);
}

TEST(Layering, RoomsOfTheTrainerIncludeOnlyLowerOnes) {
  const std::vector<std::string> rooms = {"optimizer", "config", "checkpoint",
                                          "record",    "loop",   "commands"};
  expect_rooms_in_order("trainer", rooms);
  for (const auto& entry : fs::directory_iterator(kRoot / "trainer")) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(!entry.is_directory() || std::count(rooms.begin(), rooms.end(), name) == 1)
        << "trainer/" << name << " has no place in the order of rooms";
  }
}

/// Who includes a header of ours.
std::vector<std::string> includers(const std::string& header) {
  std::vector<std::string> files;
  for (const std::string& layer : kLayers) {
    for (const Include& include : includes(layer)) {
      if (include.target == header) files.push_back(include.file);
    }
  }
  return files;
}

TEST(Layering, LibrariesStayBehindTheirOwnFiles) {
  const std::map<std::string, std::string> homes = {
      {"mpi.h", "comm/mpi/"},
      {"yaml-cpp/", "core/config/yaml_tree.cpp"},
      {"CLI/", "trainer/main.cpp"},
      {"dnnl", "kernels/cpu/"},
  };
  for (const std::string& layer : kLayers) {
    for (const Include& include : includes(layer)) {
      for (const auto& [library, home] : homes) {
        if (!include.angled || include.target.rfind(library, 0) != 0) continue;
        EXPECT_EQ(include.file.rfind(home, 0), 0u)
            << include.file << " includes " << include.target;
        if (include.file.ends_with(".cpp")) continue;
        // A header may show the library to its own folder.
        for (const std::string& file : includers(include.file))
          EXPECT_EQ(file.rfind(home, 0), 0u)
              << include.file << " shows " << include.target << " to " << file;
      }
    }
  }
}

bool is_below(const std::string& file, const std::string& folder) {
  return file.rfind(folder, 0) == 0 || file.find("/" + folder) != std::string::npos;
}

TEST(Layering, CudaStaysBelowItsOwnFolders) {
  const std::map<std::string, std::vector<std::string>> homes = {
      {"cuda", {"cuda/", "comm/nccl/"}},
      {"cublas", {"cuda/"}},
      {"cusparse", {"cuda/"}},
      {"cub/", {"cuda/"}},
      {"mma.h", {"cuda/"}},
      {"nvtx3/", {"cuda/"}},
      {"nccl", {"comm/nccl/"}},
  };
  size_t checked = 0;
  for (const std::string& layer : kLayers) {
    for (const Include& include : includes(layer)) {
      for (const auto& [library, folders] : homes) {
        if (!include.angled || include.target.rfind(library, 0) != 0) continue;
        EXPECT_TRUE(
            std::any_of(folders.begin(), folders.end(),
                        [&](const std::string& folder) { return is_below(include.file, folder); }))
            << include.file << " includes " << include.target;
        ++checked;
      }
      const bool is_device_code = include.target.ends_with(".cuh");
      EXPECT_TRUE(!is_device_code || is_below(include.file, "cuda/"))
          << include.file << " includes " << include.target;
    }
    for (const fs::path& path : sources(layer)) {
      const std::string extension = path.extension().string();
      if (extension != ".cu" && extension != ".cuh") continue;
      EXPECT_TRUE(is_below(fs::relative(path, kRoot).string(), "cuda/")) << path;
    }
  }
  EXPECT_GT(checked, 4u);
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

/// Keys stand in the layer whose section holds them; below, a message says what happened, and who
/// owns the settings adds which one to change.
TEST(Layering, LowLayersNameNoKeysOfTheConfiguration) {
  static const std::regex key(
      "\"[^\"]*\\b(run|train|step|eval|data|model|attention|optimizer|guard|device|precision)"
      "(\\.[a-z]|=[a-z])[^\"]*\"");
  size_t lines = 0;
  for (const char* layer : {"core", "kernels", "comm"}) {
    for (const fs::path& path : sources(layer)) {
      std::ifstream in(path);
      for (std::string line; std::getline(in, line); ++lines) {
        const std::string code = line.substr(0, line.find("//"));
        EXPECT_FALSE(code.find("#include") == std::string::npos && std::regex_search(code, key))
            << path << ": " << line;
      }
    }
  }
  EXPECT_GT(lines, 10000u);
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Catalogue, EveryOperationHasAFrontAndTwoBodies) {
  size_t operations = 0;
  for (const auto& entry : fs::directory_iterator(kRoot / "kernels")) {
    if (entry.path().extension() != ".h") continue;
    // Headers without operations describe how work is cut.
    if (read_file(entry.path()).find("(const Stream&, const ") == std::string::npos) continue;
    const std::string stem = entry.path().stem().string();
    // A large family has a folder of its own in both backends.
    const auto has_body = [&](const std::string& folder, const std::string& extension) {
      return fs::exists(kRoot / folder / (stem + extension)) ||
             fs::exists(kRoot / folder / stem / (stem + extension));
    };
    EXPECT_TRUE(fs::exists(kRoot / "kernels" / (stem + ".cpp"))) << stem;
    EXPECT_TRUE(has_body("kernels/cpu", ".cpp")) << stem;
    EXPECT_TRUE(has_body("kernels/cuda", ".cu")) << stem;
    EXPECT_TRUE(fs::exists(kRoot / "tests/kernels" / (stem + "_test.cpp"))) << stem;
    ++operations;
  }
  EXPECT_GE(operations, 10u);
}

TEST(Catalogue, EveryTestFileIsRun) {
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "tests")) {
    const std::string stem = entry.path().stem().string();
    if (!stem.ends_with("_test") || entry.path().extension() != ".cpp") continue;
    const fs::path folder = entry.path().parent_path();
    const fs::path list =
        (folder.filename() == "cuda_on_cpu" ? kRoot / "tests" : folder) / "CMakeLists.txt";
    EXPECT_TRUE(std::regex_search(read_file(list), std::regex("\\b" + stem + "\\b")))
        << entry.path() << " is not in " << list;
  }
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
