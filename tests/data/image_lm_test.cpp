// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "data/task_config.h"
#include "tests/data/scratch_folder.h"
#include "tests/data/what_open_says.h"

namespace stipple::data {
namespace {

constexpr int64_t kSide = 2;

/// Pixel p of channel c of picture i.
uint8_t value_at(int64_t i, int64_t c, int64_t p) {
  return static_cast<uint8_t>(10 * i + 100 * c + p);
}

/// Files of small pictures in CIFAR-10's layout: `pictures` in each of the six, numbered through.
void write_pictures(const test::ScratchFolder& folder, int64_t pictures) {
  int64_t number = 0;
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"}) {
    std::string bytes;
    for (int64_t i = 0; i < pictures; ++i, ++number) {
      bytes += '\7';  // its class
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t p = 0; p < kSide * kSide; ++p)
          bytes += static_cast<char>(value_at(number, c, p));
      }
    }
    test::write_file(folder / name, bytes);
  }
}

DataConfig pictures_in(const test::ScratchFolder& folder) {
  DataConfig config;
  config.task = TaskKind::kImageLm;
  config.dir = folder.path();
  config.image_lm.side = kSide;
  return config;
}

TEST(ImageLm, GoesPixelByPixelThroughRedGreenAndBlue) {
  const test::ScratchFolder folder;
  write_pictures(folder, 2);
  const auto dataset = make_task(pictures_in(folder), 0)->open(Split::kTrain);
  std::vector<int32_t> ids(12), labels(12);
  dataset->get({.example = 3}, 0, {.ids = ids, .labels = labels});
  EXPECT_EQ(labels, (std::vector<int32_t>{30, 130 + 256, 230 + 512, 31, 131 + 256, 231 + 512, 32,
                                          132 + 256, 232 + 512, 33, 133 + 256, 233 + 512}));
  EXPECT_EQ(ids[0], 768);
  EXPECT_TRUE(std::equal(ids.begin() + 1, ids.end(), labels.begin()));
  EXPECT_EQ(dataset->num_labels({.example = 3}), 12);
}

TEST(ImageLm, WritesPicturesByWhatMayStandAtEachPlace) {
  const test::ScratchFolder folder;
  write_pictures(folder, 2);
  const auto task = make_task(pictures_in(folder), 0);
  EXPECT_EQ(task->info().writes, Writes::kPicture);
  EXPECT_EQ(task->tokens_of(""), (std::vector<int32_t>{768}));
  EXPECT_EQ(task->next_tokens(0), (Range{0, 256}));
  EXPECT_EQ(task->next_tokens(4), (Range{256, 512}));
  EXPECT_EQ(task->next_tokens(11), (Range{512, 768}));
  std::vector<int32_t> ids(12), tokens(12);
  task->open(Split::kTest)->get({.example = 1}, 0, {.ids = ids, .labels = tokens});
  tokens.insert(tokens.begin(), 768);
  const Picture picture = task->picture_of(tokens);
  EXPECT_EQ(picture.width, kSide);
  EXPECT_EQ(picture.height, kSide);
  for (int64_t p = 0; p < kSide * kSide; ++p) {
    for (int64_t c = 0; c < 3; ++c)
      EXPECT_EQ(picture.rgb[static_cast<size_t>(3 * p + c)], value_at(11, c, p));
  }
  EXPECT_THROW(task->picture_of(std::span(tokens).first(12)), Error);
}

TEST(ImageLm, TheLastTenthOfTheTrainingFilesIsValidation) {
  const test::ScratchFolder folder;
  write_pictures(folder, 4);
  const auto task = make_task(pictures_in(folder), 0);
  EXPECT_EQ(task->open(Split::kTrain)->size(), 18);
  EXPECT_EQ(task->open(Split::kValidation)->size(), 2);
  EXPECT_EQ(task->open(Split::kTest)->size(), 4);
  std::vector<int32_t> ids(12), labels(12);
  task->open(Split::kValidation)->get({.example = 0}, 0, {.ids = ids, .labels = labels});
  EXPECT_EQ(labels[0], value_at(18, 0, 0));
  EXPECT_NE(task->open(Split::kTrain)->fingerprint(), task->open(Split::kTest)->fingerprint());
}

TEST(ImageLm, InfoDescribesTheModelsEnds) {
  DataConfig config;
  config.task = TaskKind::kImageLm;
  const TaskInfo info = make_task(config, 0)->info();
  EXPECT_EQ(info.fields.label, LabelKind::kNextToken);
  EXPECT_EQ(info.vocab_size, 769);
  EXPECT_EQ(info.max_length, 3072);
  EXPECT_EQ(info.metrics[0].name, "bits_per_dim");
  EXPECT_TRUE(predicts_next_token(TaskKind::kImageLm));
}

TEST(ImageLm, SaysWhatIsWrongWithTheFiles) {
  const test::ScratchFolder folder;
  const DataConfig config = pictures_in(folder);
  EXPECT_NE(what_open_says(config).find("data_batch_1.bin"), std::string::npos);
  write_pictures(folder, 2);
  EXPECT_EQ(what_open_says(config), "nothing");
  test::write_file(folder / "data_batch_3.bin", std::string(25, 'x'));
  EXPECT_EQ(what_open_says(config),
            folder / "data_batch_3.bin" +
                ": has 25 bytes, which is no whole number of pictures of 13 bytes (a class, 12 "
                "values; data.image_lm.side)");
  write_pictures(folder, 1);
  EXPECT_NE(what_open_says(config).find("5 pictures are too few"), std::string::npos);
}

}  // namespace
}  // namespace stipple::data
