// SPDX-License-Identifier: Apache-2.0
// What the program can do: one function per subcommand of `stipple`, each in the file of its name.
// They return the process's exit code and throw what cannot be dealt with; main turns exceptions
// into one line and a code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "data/listops.h"
#include "data/shards/tokenize.h"
#include "data/wordpiece/train_vocabulary.h"
#include "trainer/config/arguments.h"
#include "trainer/loop/predictor_fit.h"

namespace stipple::trainer {

/// Trains, or goes on training, the run in run.dir. Collective.
int train(comm::Communicator&, const ConfigArguments&);
/// Evaluates a checkpoint of a run (chosen_checkpoint.h) on eval.split. graphs: of how many examples
/// the graphs are written, too. Collective.
int eval(comm::Communicator&, const std::string& run_dir, const std::vector<std::string>& overrides,
         const std::string& checkpoint, std::optional<int64_t> graphs);
struct PredictOptions {
  data::Split split = data::Split::kTest;  ///< as published, whatever data.val_fraction
  std::string input =
      {};           ///< a file of one's own in place of a split: a text a line, or two with a tab
  std::string out;  ///< the file to write
  bool probabilities = false;         ///< of classes, as columns more
  std::string checkpoint = "newest";  ///< chosen_checkpoint.h
};
/// Writes the answers of the model of a run to all examples (data/predictions.h), under the first
/// sampling seed. ConfigError where the run's task has no answers to tell. Collective.
int predict(comm::Communicator&, const std::string& run_dir,
            const std::vector<std::string>& overrides, const PredictOptions&);
struct SampleOptions {
  std::optional<int64_t> length;  ///< tokens to write; none: 256 of a text, a whole picture
  std::string prompt;             ///< what they go on from
  double temperature = 1;  ///< of the softmax they are drawn from; 0: the most likely one each time
  uint64_t seed = 0;
  std::string out = {};  ///< the file to write; empty: texts go to standard output
};
/// Writes the prompt and what the model of the newest checkpoint of a run goes on with, or a picture
/// as PNG. ConfigError where it is no language model. Collective.
int sample(comm::Communicator&, const std::string& run_dir,
           const std::vector<std::string>& overrides, const SampleOptions&);
struct FitOptions {
  int64_t examples = 64;  ///< of the training split
  model::ProjectionFitOptions projection = {.batch = 4};
};
/// Fits projections and centroids of Sparsefinder to the exact attention of a run, whose parameters
/// stay as they are, and writes them into it. ConfigError where its attention is not entmax.
int sparsefinder_fit(comm::Communicator&, const std::string& run_dir,
                     const std::vector<std::string>& overrides, const FitOptions&);
struct SweepOptions {
  std::string out;  ///< folder of sweep.csv and sweep.html
  FitOptions fit = {};
  std::vector<int64_t> windows = {1, 5, 17};
  std::vector<int64_t> globals = {4, 16};
  std::vector<int64_t> clusters = {4, 8, 16, 32};
  std::vector<int64_t> tops = {1, 2};
  std::vector<int64_t> buckets = {8, 16};
  std::vector<double> thresholds = {0.5, 1, 2, 4};
  // Of what others do.
  std::vector<int64_t> hashes = {1, 4};
  std::vector<int64_t> random_blocks = {1, 4};
  std::vector<int64_t> random_tokens = {4, 16};
  std::vector<int64_t> strides = {8, 16};
};
/// Evaluates a run with exact attention over graphs that many predictors predict, each fitted to it,
/// and writes what each is worth. ConfigError as above.
int sparsefinder_sweep(comm::Communicator&, const std::string& run_dir,
                       const std::vector<std::string>& overrides, const SweepOptions&);
/// Writes the zip that GLUE's leaderboard takes, of files that predict() wrote
/// (data/glue/submission.h).
int submission(const std::vector<std::string>& files, const std::string& out);
struct GlueOptions {
  std::string init = {};                ///< what every model begins from; empty: random values
  std::string out;                      ///< folder of all runs and results (glue_plan.h)
  std::vector<std::string> tasks = {};  ///< of data.glue.task; empty: all nine
  std::optional<int64_t> seeds = {};    ///< of each task; none: data::glue::usual_seeds()
  std::optional<int64_t> epochs = {};   ///< of each task; none: the recipe's
  std::string recipe = "mosaicbert";    ///< data/glue/recipe.h
  bool from_mnli = false;               ///< RTE, STS-B and MRPC begin from the model of MNLI
};
/// Fine-tunes on the tasks of GLUE one after the other, and writes what came of it, predictions and the
/// leaderboard's zip. What is complete is not done again. Returns train()'s code where a signal stops
/// it. Collective.
int glue(comm::Communicator&, const GlueOptions&, const ConfigArguments&);
/// Writes the files of ListOps. DataError where one exists, unless options.replace.
int data_listops(const std::string& out, const data::listops::GeneratorOptions&);
/// Writes a BERT as transformers keeps it into a folder that init.from takes. ConfigError, one line,
/// where it is no BERT or `out` exists.
int import_huggingface(const std::string& folder, const std::string& out);
struct ExportOptions {
  std::string out;  ///< the folder to write
  /// Names of the classes, in their order; none: the task's.
  std::vector<std::string> labels = {};
  std::string vocabulary =
      {};  ///< path of vocab.txt; empty: what the run or the imported model has
};
/// Writes the model of a run, of a checkpoint or an imported one as transformers reads it.
int export_huggingface(const std::string& path, const ExportOptions&);
struct VocabularyOptions {
  std::vector<std::string> files;
  std::string out;
  data::wordpiece::TrainOptions training = {};
  data::wordpiece::Options splitting = {};
  int threads = 1;
  bool replace = false;  ///< a file that exists
};
/// Trains a vocabulary of WordPiece and writes it.
int data_vocab(const VocabularyOptions&);
struct TokenizeArguments {
  std::vector<std::string> files;
  std::string vocabulary;
  std::string out;  ///< prefix
  data::wordpiece::Options tokenizer = {};
  data::shards::TokenizeOptions options = {};
};
/// Writes PREFIX.bin, PREFIX.idx and PREFIX.meta.json of text files.
int data_tokenize(const TokenizeArguments&);
/// Reads a shard whole and says what it holds. DataError where it is not what was written, or, with
/// a vocabulary, was made by another one.
int data_verify(const std::string& prefix, const std::string& vocabulary);
/// Prints what a run would use, without running it.
int dry_run(const ConfigArguments&, int ranks, int ranks_per_node);
/// Prints each value of a configuration with the line, the override or the default that set it.
void explain(const ConfigArguments&);
/// Prints the value of one key of a configuration. ConfigError where there is no such key.
int print_key(const ConfigArguments&, const std::string& key);
/// Prints docs/config.md: every key with its default, allowed values, unit and meaning.
int keys();
/// Verifies a checkpoint and prints its tensors and state.
int inspect(const std::string& path);
struct SubmitOptions {
  int64_t nodes = 1;
  int64_t gpus_per_node = 0;
  int64_t ranks_per_node = 0;            ///< 0: one for each GPU, or one for each node
  std::string time;                      ///< of sbatch
  int64_t chain = 1;                     ///< jobs, one after the other
  std::vector<std::string> sbatch = {};  ///< further options
  bool is_dry = false;                   ///< print the script, write and submit nothing
};
/// Writes a batch script for `train` with these arguments into the run directory and submits it to
/// Slurm. ConfigError for what the job would end with, and where sbatch refuses.
int submit(const std::vector<std::string>& arguments, const SubmitOptions&);
/// Prints where a run stands, from its files alone (trainer/record/run_status.h).
int status(const std::string& run_dir);
/// Writes report.html of a run; of several, a comparison to `out`, by default comparison.html here.
int report(const std::vector<std::string>& run_dirs, const std::string& out);
/// Prints what these machines offer, and what would disturb a run whose folder is `folder`, with
/// what to do about it. Collective.
int doctor(comm::Communicator&, const std::string& folder);

}  // namespace stipple::trainer
