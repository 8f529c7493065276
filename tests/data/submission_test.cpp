// SPDX-License-Identifier: Apache-2.0
#include "data/glue/submission.h"

#include <gtest/gtest.h>
#include <zip.h>

#include <map>
#include <string>

#include "core/error.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data::glue {
namespace {

/// By name, in any order.
std::map<std::string, std::string> files_in(const std::string& zip) {
  std::map<std::string, std::string> files;
  zip_error_t error;
  zip_source_t* source = zip_source_buffer_create(zip.data(), zip.size(), 0, &error);
  zip_t* archive = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error);
  EXPECT_NE(archive, nullptr);
  if (archive == nullptr) return files;
  for (zip_int64_t i = 0; i < zip_get_num_entries(archive, 0); ++i) {
    zip_stat_t stat;
    zip_stat_index(archive, static_cast<zip_uint64_t>(i), 0, &stat);
    std::string text(stat.size, '\0');
    zip_file_t* file = zip_fopen_index(archive, static_cast<zip_uint64_t>(i), 0);
    EXPECT_EQ(zip_fread(file, text.data(), text.size()), static_cast<zip_int64_t>(text.size()));
    zip_fclose(file);
    files[zip_get_name(archive, static_cast<zip_uint64_t>(i), 0)] = text;
  }
  zip_discard(archive);
  return files;
}

class SubmissionTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& rows) const {
    const std::string path = folder_ / name;
    test::write_file(path, "index\tprediction\n" + rows);
    return path;
  }
  std::string error(const std::vector<std::string>& paths) const {
    try {
      read_submission(paths);
    } catch (const DataError& e) {
      return e.what();
    }
    return "nothing";
  }

  test::ScratchFolder folder_;
};

TEST_F(SubmissionTest, TheZipHoldsTheFilesByteForByteAndIsTheSameEachTime) {
  const std::string mrpc = "0\t1\n1\t0\n", stsb = "0\t2.500\n1\t5.000\n",
                    mnli = "0\tneutral\n1\tcontradiction\n";
  const std::vector<std::string> paths = {write("STS-B.tsv", stsb), write("MNLI-mm.tsv", mnli),
                                          write("MRPC.tsv", mrpc)};
  const Submission submission = read_submission(paths);
  const std::string zip = zip_of(submission);
  const std::string header = "index\tprediction\n";
  EXPECT_EQ(files_in(zip), (std::map<std::string, std::string>{{"MRPC.tsv", header + mrpc},
                                                               {"STS-B.tsv", header + stsb},
                                                               {"MNLI-mm.tsv", header + mnli}}));
  EXPECT_EQ(zip_of(read_submission({paths[2], paths[0], paths[1]})), zip);
  ASSERT_EQ(submission.remarks.size(), 4u);
  EXPECT_NE(submission.remarks[0].find("has 2 predictions, and the published test 1379 examples"),
            std::string::npos);
  EXPECT_EQ(submission.remarks[3],
            "without CoLA.tsv, SST-2.tsv, QQP.tsv, MNLI-m.tsv, QNLI.tsv, RTE.tsv, WNLI.tsv, "
            "AX.tsv; the leaderboard takes whole submissions only");
}

TEST_F(SubmissionTest, WhatTheLeaderboardWouldRefuseIsToldWithFileAndRow) {
  const std::string mrpc = write("MRPC.tsv", "0\t1\n2\t1\n");
  EXPECT_EQ(error({mrpc}), mrpc + ":3: the index is 2, and 1 is expected");
  write("MRPC.tsv", "0\tentailment\n");
  EXPECT_EQ(error({mrpc}), mrpc + ":2: the label 'entailment' is none of 0, 1");
  write("MRPC.tsv", "0\t1\t0.9\n");
  EXPECT_EQ(error({mrpc}), mrpc + ":2: the row has 3 fields, not 2");
  const std::string stsb = write("STS-B.tsv", "0\t5.001\n");
  EXPECT_NE(error({stsb}).find(":2: the label 5.001 is not between 0 and 5"), std::string::npos);
  test::write_file(stsb, "0\t5.000\n");
  EXPECT_EQ(error({stsb}), stsb + ":1: the header is to be index<TAB>prediction");
  const std::string other = write("mrpc.tsv", "0\t1\n");
  EXPECT_NE(error({other}).find("the leaderboard has no file of that name"), std::string::npos);
  write("MRPC.tsv", "0\t1\n");
  EXPECT_EQ(error({mrpc, mrpc}), mrpc + ": MRPC.tsv is there twice");
  EXPECT_NE(error({folder_ / "CoLA.tsv"}).find("cannot read"), std::string::npos);
}

}  // namespace
}  // namespace stipple::data::glue
