// SPDX-License-Identifier: Apache-2.0
// Pictures, value by value: files as those of CIFAR-10's binary version (Krizhevsky 2009), whose
// records are a byte for the class, which is not read, and planes of red, green and blue.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "data/mapped_file.h"
#include "data/tasks/tasks.h"

namespace stipple::data {
namespace {

constexpr int64_t kChannels = 3;
constexpr int64_t kValues = 256;  ///< of a channel
constexpr int32_t kBegin = kChannels * kValues;
constexpr int64_t kVocabulary = kBegin + 1;
constexpr int kTrainingFiles = 5;
constexpr int64_t kValidationShare = 10;  ///< the last tenth of the training files is validation

std::vector<std::string> image_files(const std::string& dir, Split split) {
  if (split == Split::kTest) return {dir + "/test_batch.bin"};
  std::vector<std::string> files;
  for (int i = 1; i <= kTrainingFiles; ++i)
    files.push_back(fmt::format("{}/data_batch_{}.bin", dir, i));
  return files;
}

/// Appends the pictures of a file, plane by plane as they stand there.
void read_pictures(const std::string& path, int64_t values, std::vector<uint8_t>& planes) {
  const MappedFile file(path);
  const auto bytes = static_cast<int64_t>(file.text().size());
  const int64_t record = 1 + values;
  STIPPLE_CHECK_AS(DataError, bytes > 0 && bytes % record == 0, path, ": has ", bytes,
                   " bytes, which is no whole number of pictures of ", record, " bytes (a class, ",
                   values, " values; data.image_lm.side)");
  for (int64_t at = 0; at < bytes; at += record) {
    const auto begin = file.text().begin() + at + 1;
    planes.insert(planes.end(), begin, begin + values);
  }
}

class ImageDataset final : public Dataset {
 public:
  /// planes: of all pictures, [pictures, 3, pixels].
  ImageDataset(std::vector<uint8_t> planes, int64_t pixels)
      : planes_(std::move(planes)), pixels_(pixels) {}

  int64_t size() const override { return static_cast<int64_t>(planes_.size()) / tokens(); }
  int64_t length(Draw, int64_t) const override { return tokens(); }
  int64_t num_labels(Draw) const override { return tokens(); }

  /// Pixel by pixel, red, green, blue; what begins every picture is shown before its first value.
  void get(Draw draw, int64_t, const ExampleSpans& to) const override {
    const int64_t i = draw.example;
    const auto n = static_cast<size_t>(tokens());
    STIPPLE_CHECK(i >= 0 && i < size() && to.ids.size() >= n && to.labels.size() >= n,
                  "image_lm: no room for picture ", i, " of ", size());
    const uint8_t* const picture = planes_.data() + i * tokens();
    for (int64_t pixel = 0; pixel < pixels_; ++pixel) {
      for (int64_t channel = 0; channel < kChannels; ++channel) {
        const int64_t value = picture[channel * pixels_ + pixel];
        to.labels[static_cast<size_t>(kChannels * pixel + channel)] =
            static_cast<int32_t>(value + kValues * channel);
      }
    }
    to.ids[0] = kBegin;
    std::copy_n(to.labels.begin(), n - 1, to.ids.begin() + 1);
  }

  uint64_t fingerprint() const override {
    return XXH3_64bits_withSeed(planes_.data(), planes_.size(), static_cast<uint64_t>(pixels_));
  }
  Intake intake() const override {
    Intake intake;
    intake.examples = size();
    intake.tokens = size() * tokens();
    return intake;
  }

 private:
  int64_t tokens() const { return kChannels * pixels_; }

  std::vector<uint8_t> planes_;
  int64_t pixels_;
};

class ImageTask final : public Task {
 public:
  explicit ImageTask(const DataConfig& config)
      : dir_(config.dir),
        side_(config.image_lm.side),
        pixels_(side_ * side_),
        info_{.name = "image_lm",
              .fields = {.label = LabelKind::kNextToken},
              .vocab_size = kVocabulary,
              .num_classes = kVocabulary,
              .max_length = kChannels * pixels_,
              .writes = Writes::kPicture,
              .metrics = {kBitsPerDimension, kPerplexity, kAccuracy},
              .profiles = {kBitsPerDimensionByPlace}} {}

  const TaskInfo& info() const override { return info_; }
  std::vector<std::string> files(Split split) const override { return image_files(dir_, split); }

  std::unique_ptr<Dataset> open(Split split) const override {
    const int64_t values = kChannels * pixels_;
    std::vector<uint8_t> planes;
    for (const std::string& path : image_files(dir_, split)) read_pictures(path, values, planes);
    if (split == Split::kTest) return std::make_unique<ImageDataset>(std::move(planes), pixels_);
    const int64_t pictures = static_cast<int64_t>(planes.size()) / values;
    const int64_t held_out = pictures / kValidationShare;
    STIPPLE_CHECK_AS(DataError, held_out > 0, dir_, ": ", pictures,
                     " pictures are too few to hold out a tenth for validation");
    const auto cut = planes.end() - held_out * values;
    if (split == Split::kTrain) {
      planes.erase(cut, planes.end());
    } else {
      planes.erase(planes.begin(), cut);
    }
    return std::make_unique<ImageDataset>(std::move(planes), pixels_);
  }

  std::vector<int32_t> tokens_of(std::string_view) const override { return {kBegin}; }

  /// Values of the channel whose turn it is.
  Range next_tokens(int64_t written) const override {
    const int64_t channel = written % kChannels;
    return {kValues * channel, kValues * (channel + 1)};
  }

  Picture picture_of(std::span<const int32_t> tokens) const override {
    STIPPLE_CHECK(static_cast<int64_t>(tokens.size()) == 1 + kChannels * pixels_,
                  "image_lm: ", tokens.size(), " tokens are no picture of ", pixels_, " pixels");
    Picture picture{.width = side_, .height = side_, .rgb = {}};
    for (const int32_t token : tokens.subspan(1))
      picture.rgb.push_back(static_cast<uint8_t>(token % kValues));
    return picture;
  }

  std::vector<Rung> ladder(const Dataset&) const override { return {{"no knowledge", 8.0}}; }

 private:
  std::string dir_;
  int64_t side_, pixels_;
  TaskInfo info_;
};

}  // namespace

void ImageLmConfig::describe(ConfigVisitor& visitor) {
  visitor.field("side", side,
                {.doc = "Pixels of a picture's side; its records have 1 + 3 side² bytes, and the "
                        "model 3 side² positions, whatever data.max_length.",
                 .unit = "pixels",
                 .min = 1,
                 .max = 128});
}

std::unique_ptr<Task> tasks::make_image_lm(const DataConfig& config, uint64_t) {
  return std::make_unique<ImageTask>(config);
}

}  // namespace stipple::data
