// SPDX-License-Identifier: Apache-2.0
// GLUE's files with a few rows each, in their published layouts, traps among them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tests/data/scratch_folder.h"

namespace stipple::test {

/// A vocabulary of a few words; ids 0 to 4 are [PAD] [UNK] [CLS] [SEP] [MASK].
inline constexpr std::string_view kVocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\n\"\n.\n?\n##a\n##b\n##c\n";

inline void write_in(const std::string& folder, const std::string& name, std::string_view text) {
  std::filesystem::create_directories(folder);
  write_file(folder + "/" + name, text);
}

/// MNLI's row with these texts; fields before are filled, `labels` follow.
inline std::string mnli_row(const std::string& index, const std::string& first,
                            const std::string& second, const std::string& labels) {
  return index + "\tp\tq\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\t" + first + "\t" + second +
         labels + "\n";
}

inline void write_glue(const std::string& dir) {
  const std::string bom = "\xEF\xBB\xBF";
  write_in(dir + "/CoLA", "train.tsv",
           "gj04\t1\t\tA b.\ngj04\t0\t*\tb \"a\ngj04\t1\t\tc \xE2\x80\xA8 d\ngj04\t0\t*\t\n");
  write_in(dir + "/CoLA", "dev.tsv", "gj04\t1\t\tc c.\r\ngj04\t0\t*\td");
  write_in(dir + "/CoLA", "test.tsv", "index\tsentence\n0\ta b\n1\t\"c\n2\t\n");
  write_in(dir + "/SST-2", "train.tsv", "sentence\tlabel\na b \t1\nc \"d \t0\n");
  write_in(dir + "/SST-2", "dev.tsv", "sentence\tlabel\na . \t1\n");
  write_in(dir + "/SST-2", "test.tsv", "index\tsentence\n0\td\n");
  const std::string mrpc = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n";
  write_in(dir + "/MRPC", "train.tsv", bom + mrpc + "1\t11\t12\ta b\t\" b a\n0\t13\t14\tc\td\n");
  write_in(dir + "/MRPC", "dev.tsv", bom + mrpc + "1\t15\t16\te\te\n");
  write_in(dir + "/MRPC", "test.tsv",
           bom + "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta\tb\n1\t3\t4\tc\td\n");
  const std::string qqp = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
  write_in(dir + "/QQP", "train.tsv",
           qqp + "1\t2\t3\ta ?\tb ?\t0\n4\t5\t6\tonly a question\n7\t8\t9\tc\t\t1\n");
  write_in(dir + "/QQP", "dev.tsv", qqp + "1\t2\t3\td\te\t1\n");
  write_in(dir + "/QQP", "test.tsv", "id\tquestion1\tquestion2\n0\ta\tb\n1\tc\n2\td\te\n");
  const std::string stsb =
      "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2";
  write_in(dir + "/STS-B", "train.tsv",
           stsb + "\tscore\n0\tg\tf\ty\t0\tn\tn\ta\tb\t4.750\n1\tg\tf\ty\t1\tn\tn\tc\td\t0.000\n");
  write_in(dir + "/STS-B", "dev.tsv", stsb + "\tscore\n0\tg\tf\ty\t0\tn\tn\ta\ta\t5.000\n");
  write_in(dir + "/STS-B", "test.tsv", stsb + "\n0\tg\tf\ty\t0\tn\tn\te\td\n");
  const std::string mnli =
      "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
      "sentence1_parse\tsentence2_parse\tsentence1\tsentence2";
  write_in(dir + "/MNLI", "train.tsv",
           mnli + "\tlabel1\tgold_label\n" + mnli_row("0", "a", "b", "\tneutral\tcontradiction") +
               mnli_row("1", "c", "d", "\tneutral\tentailment"));
  const std::string dev = mnli + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n";
  const std::string votes = "\tneutral\tneutral\tneutral\tneutral\tentailment";
  write_in(dir + "/MNLI", "dev_matched.tsv", dev + mnli_row("0", "a", "b", votes + "\tneutral"));
  write_in(dir + "/MNLI", "dev_mismatched.tsv",
           dev + mnli_row("0", "e", "e", votes + "\tcontradiction") +
               mnli_row("1", "d", "e", votes + "\tentailment"));
  write_in(dir + "/MNLI", "test_matched.tsv", mnli + "\n" + mnli_row("0", "a", "c", ""));
  write_in(dir + "/MNLI", "test_mismatched.tsv",
           mnli + "\n" + mnli_row("0", "a", "d", "") + mnli_row("1", "b", "d", ""));
  const std::string qnli = "index\tquestion\tsentence";
  write_in(dir + "/QNLI", "train.tsv",
           qnli + "\tlabel\n0\ta ?\tb\tentailment\n1\tc ?\td\tnot_entailment\n");
  write_in(dir + "/QNLI", "dev.tsv", qnli + "\tlabel\n0\td ?\te\tnot_entailment\n");
  write_in(dir + "/QNLI", "test.tsv", qnli + "\n0\td ?\te\n");
  const std::string pair = "index\tsentence1\tsentence2";
  for (const char* name : {"/RTE", "/WNLI"}) {
    const bool is_rte = name == std::string_view("/RTE");
    const std::string yes = is_rte ? "not_entailment" : "1", no = is_rte ? "entailment" : "0";
    write_in(dir + name, "train.tsv",
             pair + "\tlabel\n0\ta\tb\t" + yes + "\n1\tc\td\t" + no + "\n");
    write_in(dir + name, "dev.tsv", pair + "\tlabel\n0\te\td\t" + yes + "\n");
    write_in(dir + name, "test.tsv", pair + "\n0\te\td\n1\td\te\n");
  }
  write_in(dir + "/diagnostic", "diagnostic.tsv", pair + "\n0\ta\tb\n1\tb\ta\n");
  write_in(dir, "vocab.txt", kVocabulary);
}

}  // namespace stipple::test
