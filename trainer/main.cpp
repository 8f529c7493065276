// SPDX-License-Identifier: Apache-2.0
// The program `stipple`: reads the command line, starts the ranks, runs one command, turns errors
// into one line and an exit code.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include "core/cpu/cores.h"
#include "core/error.h"
#include "core/log.h"
#include "core/standard_streams.h"
#include "data/glue/recipe.h"
#include "trainer/commands/commands.h"
#include "trainer/exit_code.h"
#include "trainer/loop/signals.h"

namespace stipple::trainer {
namespace {

/// A command that all ranks run together. What all ranks throw, rank 0 tells and all leave in
/// order. What one rank throws, it tells itself, and ends the job, because its peers may be waiting
/// for it.
int run_collective(const std::function<int(comm::Communicator&)>& command) {
  const std::unique_ptr<comm::Communicator> communicator = comm::make_mpi_communicator();
  log::set_rank(communicator->rank(), communicator->size());
  try {
    return command(*communicator);
  } catch (const std::exception& e) {
    const auto* error = dynamic_cast<const Error*>(&e);
    if (communicator->size() == 1 || (error != nullptr && error->is_collective())) {
      if (communicator->rank() == 0) log::error(message_of(e));
      return exit_code_of(e);
    }
    log::fatal(message_of(e));
    std::fflush(stdout);  // what has been answered so far: nothing else will write it
    comm::abort_job(exit_code_of(e));
  }
}

constexpr int kMostRanks = 1'000'000;
constexpr int kMostThreads = 4096;

constexpr const char* kConfigHelp =
    "Configuration files or their names (attention/sbm), composed left to right, then key=value "
    "overrides (docs/config.md lists the keys)";

template <class T>
std::optional<T> number_in(const std::string& text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, value);
  if (code != std::errc() || stopped != end) return std::nullopt;
  return value;
}

// CLI11's own checks go by way of a double and let pass what is no number.
CLI::Validator whole_number_from(int64_t least) {
  return {[least](const std::string& text) -> std::string {
            const auto value = number_in<int64_t>(text);
            if (value && *value >= least) return {};
            return detail::concat(text, " is no whole number from ", least, " to ",
                                  std::numeric_limits<int64_t>::max());
          },
          "", "whole number"};
}
CLI::Validator number_where(bool (*is_allowed)(double), const std::string& range) {
  return {[=](const std::string& text) -> std::string {
            const auto value = number_in<double>(text);
            if (value && std::isfinite(*value) && is_allowed(*value)) return {};
            return text + " is no number " + range;
          },
          "", "number"};
}
const CLI::Validator kNumberFromZero =
    number_where([](double x) { return x >= 0; }, "of at least 0");
const CLI::Validator kNumberAboveZero = number_where([](double x) { return x > 0; }, "above 0");

struct CommandLine {
  CLI::App app{"Trains Transformers whose attention graph is sampled or predicted from the data.",
               "stipple"};
  std::vector<std::string> config;
  std::vector<std::string> runs;
  std::vector<std::string> files;
  std::string path;
  std::string key;
  std::string folder = ".";
  std::string out;
  std::string format;
  bool explains = false;
  std::optional<int64_t> graphs;
  int ranks = 1;
  int ranks_per_node = 0;
  int64_t seed = 0;
  std::vector<std::string> splits;
  std::string prediction_split = "test";
  std::string checkpoint = "newest";
  data::listops::GeneratorOptions listops;
  PredictOptions prediction;
  GlueOptions benchmark;
  VocabularyOptions vocabulary;
  TokenizeArguments tokenizing;
  bool is_cased = false;
  SampleOptions sampling;
  SweepOptions sweep;
  ExportOptions exporting;
  SubmitOptions submission_options;
  std::function<int()> action;

  CommandLine() {
    app.set_version_flag("--version", "stipple " STIPPLE_VERSION);
    app.require_subcommand(1);
    app.failure_message([](const CLI::App*, const CLI::Error& e) {
      return std::string("error: ") + e.what() + "; --help tells more\n";
    });
    app.footer(
        "Start several ranks with mpirun: launch/run.sh -np 4 stipple train "
        "configs/recipe/quickstart.yaml\n"
        "SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU save and stop training; a "
        "second\nSIGINT stops it without saving. It also leaves by itself before its time is over: "
        "run.max_time,\nSLURM_JOB_END_TIME.\n"
        "Exit codes: 0 done, 1 failed (start again to resume), 2 bad configuration or data, 75 "
        "saved "
        "and stopped by a signal, the clock or a file, 93 diverged (starting again would not "
        "help)");
    add_train();
    add_eval();
    add_predict();
    add_submission();
    add_glue();
    add_sample();
    add_sparsefinder();
    add_data();
    add_import();
    add_export();
    add_dry_run();
    add_keys();
    add_inspect();
    add_submit();
    add_status();
    add_report();
    add_doctor();
    for (CLI::App* command : app.get_subcommands({}))
      command->set_version_flag("--version", "stipple " STIPPLE_VERSION);
  }

  void add_train() {
    CLI::App* command = app.add_subcommand("train", "Train, or resume the run in run.dir");
    command->add_option("config", config, kConfigHelp)->required();
    command->callback([this] {
      action = [this] {
        catch_stop_signals();  // before MPI starts threads
        return run_collective([this](auto& c) { return train(c, split_config_arguments(config)); });
      };
    });
  }
  void add_eval() {
    CLI::App* command =
        app.add_subcommand("eval", "Evaluate a checkpoint of a run, the newest by default");
    command->add_option("run_dir", path, "Run directory that `train` wrote")->required();
    command->add_option("overrides", config,
                        "key=value overrides, e.g. eval.split=test eval.seeds=5");
    add_checkpoint_option(command);
    command
        ->add_option("--dump-graphs", graphs,
                     "Write the attention graphs of the split's first N examples into the run "
                     "directory (safetensors: masks, probabilities, memberships, ids, labels)")
        ->check(whole_number_from(1))
        ->type_name("N");
    command->callback([this] {
      action = [this] {
        return run_collective(
            [this](auto& c) { return eval(c, path, config, checkpoint, graphs); });
      };
    });
  }
  void add_checkpoint_option(CLI::App* command) {
    command
        ->add_option("--checkpoint", checkpoint,
                     "newest; best, by the first measure on validation; or the step of one that is "
                     "kept")
        ->capture_default_str();
  }
  void add_predict() {
    CLI::App* command = app.add_subcommand(
        "predict", "Write the answers of a run's model to a split or to texts of your own");
    command->add_option("run_dir", path, "Run directory that `train` wrote")->required();
    command->add_option("overrides", config,
                        "key=value overrides, e.g. data.glue.task=mnli_mm for a run of mnli");
    CLI::Option* split =
        command
            ->add_option("--split", prediction_split,
                         "Published examples to predict, without data.val_fraction")
            ->capture_default_str()
            ->check(CLI::IsMember({"train", "val", "test"}));
    command
        ->add_option("--input", prediction.input,
                     "File of texts to predict in place of a split: one a line, or two with a tab "
                     "between them; written with probabilities")
        ->excludes(split);
    add_checkpoint_option(command);
    command->add_option("--out", prediction.out, "The tsv file to write: index, prediction")
        ->required();
    command->add_flag("--probabilities", prediction.probabilities,
                      "Write the probability of each class, too");
    command->callback([this] {
      action = [this] {
        prediction.split = data::splits_named({prediction_split}).front();
        prediction.probabilities |= !prediction.input.empty();
        prediction.checkpoint = checkpoint;
        return run_collective([this](auto& c) { return predict(c, path, config, prediction); });
      };
    });
  }
  void add_submission() {
    CLI::App* command = app.add_subcommand(
        "submission", "Make the zip that GLUE's leaderboard takes, of files that `predict` wrote");
    command
        ->add_option("files", files, "CoLA.tsv, SST-2.tsv, MRPC.tsv, ...: the leaderboard's names")
        ->required();
    command->add_option("--out", out, "The zip to write")->required();
    command->callback([this] { action = [this] { return submission(files, out); }; });
  }
  void add_glue() {
    CLI::App* command = app.add_subcommand(
        "glue", "Fine-tune on the tasks of GLUE, several seeds each: medians, score, submission");
    command
        ->add_option("config", config,
                     "Configuration files or their names in place of recipe/glue, then key=value "
                     "overrides, which count for every task")
        ->allow_extra_args();
    command->add_option("--init", benchmark.init,
                        "What every model begins from: a run, a checkpoint or an imported model, "
                        "whose shape and vocabulary are taken; random values by default");
    command->add_option("--out", benchmark.out, "Folder of runs and results; begun, it is gone on")
        ->required();
    command
        ->add_option("--tasks", benchmark.tasks,
                     "cola,sst2,mrpc,qqp,stsb,mnli,qnli,rte,wnli, or some of them")
        ->delimiter(',')
        ->allow_extra_args(false);
    command
        ->add_option("--seeds", benchmark.seeds,
                     "Of each task; 5 by default, 3 of sst2, 1 of qqp, mnli and qnli")
        ->check(whole_number_from(1));
    command->add_option("--epochs", benchmark.epochs, "Of each task; by default the recipe's")
        ->check(whole_number_from(1));
    std::vector<std::string> recipes;
    for (const auto& recipe : data::glue::all_recipes()) recipes.emplace_back(recipe.name);
    command
        ->add_option("--recipe", benchmark.recipe,
                     "Whose epochs, batches, learning rates, decay and schedule (docs/glue.md); "
                     "config: what the configuration says")
        ->capture_default_str()
        ->check(CLI::IsMember(recipes));
    command->add_flag("--from-mnli", benchmark.from_mnli,
                      "rte, stsb and mrpc begin from the model of mnli's first seed");
    command->callback([this] {
      action = [this] {
        catch_stop_signals();  // before MPI starts threads
        return run_collective(
            [this](auto& c) { return glue(c, benchmark, split_config_arguments(config)); });
      };
    });
  }
  void add_sample() {
    CLI::App* command =
        app.add_subcommand("sample", "Let the language model of a run write a text or a picture");
    command->add_option("run_dir", path, "Run directory that `train` wrote")->required();
    command->add_option("overrides", config, "key=value overrides, e.g. device=cpu");
    command->add_option("--length", sampling.length, "Bytes of text to write; 256 by default")
        ->check(whole_number_from(1));
    command->add_option("--out", sampling.out,
                        "File to write, of pictures a PNG; texts go to standard output by default");
    command->add_option("--prompt", sampling.prompt, "Text to go on from");
    command
        ->add_option("--temperature", sampling.temperature,
                     "Below 1, likely tokens become more likely; 0: the most likely one each time")
        ->capture_default_str()
        ->check(kNumberFromZero);
    command->add_option("--seed", seed, "The same seed writes the same text")
        ->capture_default_str()
        ->check(whole_number_from(0));
    command->callback([this] {
      action = [this] {
        sampling.seed = static_cast<uint64_t>(seed);
        return run_collective([this](auto& c) { return sample(c, path, config, sampling); });
      };
    });
  }
  void add_sparsefinder() {
    CLI::App* command = app.add_subcommand(
        "sparsefinder", "Predict the attention graph of a trained model with entmax attention");
    command->require_subcommand(1);
    CLI::App* fit = command->add_subcommand(
        "fit", "Fit projections and centroids, written to sparsefinder.safetensors in the run");
    add_fit_options(fit);
    fit->callback([this] {
      action = [this] {
        return run_collective(
            [this](auto& c) { return sparsefinder_fit(c, path, config, sweep.fit); });
      };
    });
    CLI::App* all = command->add_subcommand(
        "sweep", "Evaluate many ways to predict the graph: a table and a page with the frontier");
    add_fit_options(all);
    add_sweep_options(all);
    all->callback([this] {
      action = [this] {
        return run_collective(
            [this](auto& c) { return sparsefinder_sweep(c, path, config, sweep); });
      };
    });
  }
  void add_fit_options(CLI::App* command) {
    command->set_version_flag("--version", "stipple " STIPPLE_VERSION);
    command->add_option("run_dir", path, "Run directory that `train` wrote")->required();
    command->add_option("overrides", config,
                        "key=value overrides, e.g. attention.sparsefinder.cluster.clusters=32");
    command
        ->add_option("--examples", sweep.fit.examples,
                     "Of the training split, the first in the order of training")
        ->capture_default_str()
        ->check(whole_number_from(1));
    command
        ->add_option("--epochs", sweep.fit.projection.epochs,
                     "Over these examples; 0: centroids alone")
        ->capture_default_str()
        ->check(whole_number_from(0));
    command->add_option("--batch", sweep.fit.projection.batch, "Sequences of a step")
        ->capture_default_str()
        ->check(whole_number_from(1));
    command->add_option("--learning-rate", sweep.fit.projection.lr, "Of Adam")
        ->capture_default_str()
        ->check(kNumberAboveZero);
  }
  void add_sweep_options(CLI::App* command) {
    command->add_option("--out", sweep.out, "Folder for sweep.csv and sweep.html")->required();
    const auto list = [&](const char* name, auto& values, const char* doc) {
      command->add_option(name, values, doc)
          ->delimiter(',')
          ->allow_extra_args(false)
          ->capture_default_str();
    };
    list("--windows", sweep.windows, "Odd numbers of neighbours, each with every predictor");
    list("--globals", sweep.globals, "Global tokens, without a predictor");
    list("--clusters", sweep.clusters, "Clusters");
    list("--tops", sweep.tops, "In how many clusters a token is");
    list("--buckets", sweep.buckets, "Buckets of each dimension");
    list("--thresholds", sweep.thresholds, "Squared distances");
    list("--hashes", sweep.hashes, "Reformer: hashes, of as many buckets as clusters");
    list("--random-blocks", sweep.random_blocks, "BigBird: keys of a query at random");
    list("--random-tokens", sweep.random_tokens, "Longformer: global tokens at random places");
    list("--strides", sweep.strides, "Sparse Transformer: keys of a block, and strides");
  }
  void add_data() {
    CLI::App* command =
        app.add_subcommand("data", "Write data sets: by a generator, or from plain text");
    command->require_subcommand(1);
    add_vocab(command);
    add_tokenize(command);
    add_verify(command);
    CLI::App* task = command->add_subcommand(
        "listops", "ListOps in the published tsv format of the Long Range Arena");
    task->set_version_flag("--version", "stipple " STIPPLE_VERSION);
    listops.threads = cpu::allowed_cores();
    task->add_option("--out", out, "Folder for basic_train.tsv, basic_val.tsv, basic_test.tsv")
        ->required();
    task->add_option("--seed", seed, "The same seed writes the same bytes")
        ->capture_default_str()
        ->check(whole_number_from(0));
    task->add_option("--train", listops.train, "Training examples")
        ->capture_default_str()
        ->check(whole_number_from(0));
    task->add_option("--val", listops.val, "Validation examples")
        ->capture_default_str()
        ->check(whole_number_from(0));
    task->add_option("--test", listops.test, "Test examples")
        ->capture_default_str()
        ->check(whole_number_from(0));
    task->add_option("--min-length", listops.min_length,
                     "Shortest expression, exclusive, in tokens")
        ->capture_default_str();
    task->add_option("--max-length", listops.max_length, "Longest expression, exclusive, in tokens")
        ->capture_default_str();
    task->add_option("--splits", splits, "Files to write, e.g. val,test; all by default")
        ->delimiter(',')
        ->check(CLI::IsMember({"train", "val", "test"}));
    task->add_flag("--force", listops.replace, "Replace files that exist");
    task->add_option("--threads", listops.threads, "Threads; any number writes the same bytes")
        ->check(CLI::Range(1, kMostThreads));
    task->callback([this] {
      action = [this] {
        listops.seed = static_cast<uint64_t>(seed);
        if (!splits.empty()) listops.splits = data::splits_named(splits);
        return data_listops(out, listops);
      };
    });
  }
  void add_import() {
    CLI::App* command =
        app.add_subcommand("import", "Take over a model that another program trained");
    command->require_subcommand(1);
    CLI::App* bert = command->add_subcommand(
        "huggingface",
        "A BERT as transformers keeps it: config.json, model.safetensors, vocab.txt");
    bert->set_version_flag("--version", "stipple " STIPPLE_VERSION);
    bert->add_option("folder", path, "Folder of the model")->required();
    bert->add_option("--out", out, "Folder to write, for init.from and export")->required();
    bert->callback([this] { action = [this] { return import_huggingface(path, out); }; });
  }
  void add_export() {
    CLI::App* command = app.add_subcommand("export", "Write a model as another program reads it");
    command
        ->add_option("model", path,
                     "Run directory (its newest checkpoint), checkpoint, or imported model")
        ->required();
    command->add_option("--format", format, "huggingface: a BERT that transformers opens")
        ->required()
        ->check(CLI::IsMember({"huggingface"}));
    command->add_option("--out", exporting.out, "Folder to write")->required();
    command
        ->add_option("--labels", exporting.labels,
                     "Names of the classes, in the order of their numbers, e.g. no,yes; the task's "
                     "by default")
        ->delimiter(',');
    command->add_option(
        "--vocab", exporting.vocabulary,
        "vocab.txt to put beside it; that of the run or of the imported model by default");
    command->callback([this] { action = [this] { return export_huggingface(path, exporting); }; });
  }
  void add_splitting(CLI::App* task, data::wordpiece::Options& options, int& threads,
                     bool& replace) {
    task->set_version_flag("--version", "stipple " STIPPLE_VERSION);
    threads = cpu::allowed_cores();
    task->add_option_function<std::string>(
            "--profile",
            [&options](const std::string& name) {
              options.profile = *data::wordpiece::profile_named(name);
            },
            "Whose rules of Unicode: google (default) or hf, for ids equal to Hugging Face's")
        ->check(CLI::IsMember({"google", "hf"}));
    task->add_flag("--cased", is_cased, "Keep capitals and accents");
    task->add_flag("--force", replace, "Replace files that exist");
    task->add_option("--threads", threads, "Threads; any number writes the same bytes")
        ->check(CLI::Range(1, kMostThreads));
  }
  void add_vocab(CLI::App* command) {
    CLI::App* task =
        command->add_subcommand("vocab", "Train a vocabulary of WordPiece on plain text");
    task->add_option("files", vocabulary.files, "Text files, UTF-8")->required();
    task->add_option("--out", vocabulary.out, "File to write, one token a line")->required();
    task->add_option("--size", vocabulary.training.size, "Tokens, at most")
        ->capture_default_str()
        ->check(CLI::Range(int64_t{6}, int64_t{1} << 30));
    task->add_option("--min-frequency", vocabulary.training.min_frequency,
                     "A pair of pieces that occurs less often becomes no token")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    task->add_option("--alphabet", vocabulary.training.max_alphabet,
                     "Characters, at most; rarer ones are left out")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    add_splitting(task, vocabulary.splitting, vocabulary.threads, vocabulary.replace);
    task->callback([this] {
      action = [this] {
        vocabulary.splitting.lower_case = !is_cased;
        return data_vocab(vocabulary);
      };
    });
  }
  void add_tokenize(CLI::App* command) {
    using data::shards::DocumentRule;
    CLI::App* task = command->add_subcommand(
        "tokenize", "Turn plain text into shards of token ids (Megatron-LM's .bin and .idx)");
    task->add_option("files", tokenizing.files, "Text files, UTF-8")->required();
    task->add_option("--vocab", tokenizing.vocabulary, "vocab.txt of WordPiece")->required();
    task->add_option("--out", tokenizing.out, "Prefix of the files: PREFIX.bin, .idx, .meta.json")
        ->required();
    task->add_option("--documents", tokenizing.options.documents,
                     "What a document is: blank-line (default; between empty lines), line or file")
        ->transform(CLI::Transformer(
            std::map<std::string, DocumentRule>{{"blank-line", DocumentRule::kBlankLine},
                                                {"line", DocumentRule::kLine},
                                                {"file", DocumentRule::kFile}}));
    task->add_flag("--sentences", tokenizing.options.sentences,
                   "Every line of a document is a sequence of its own, for pairs of texts "
                   "(data.mlm.pairs)");
    task->add_option("--max-word-length", tokenizing.tokenizer.max_word_length,
                     "Characters; a longer word is [UNK]")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    add_splitting(task, tokenizing.tokenizer, tokenizing.options.threads,
                  tokenizing.options.replace);
    task->callback([this] {
      action = [this] {
        tokenizing.tokenizer.lower_case = !is_cased;
        return data_tokenize(tokenizing);
      };
    });
  }
  void add_verify(CLI::App* command) {
    CLI::App* task = command->add_subcommand(
        "verify", "Read a shard whole: are its tokens what was written, and of the vocabulary?");
    task->set_version_flag("--version", "stipple " STIPPLE_VERSION);
    task->add_option("prefix", path, "PREFIX of .bin and .idx, or a .bin of nanoGPT or llm.c")
        ->required();
    task->add_option("--vocab", tokenizing.vocabulary, "vocab.txt that it is to be of");
    task->callback(
        [this] { action = [this] { return data_verify(path, tokenizing.vocabulary); }; });
  }
  void add_dry_run() {
    CLI::App* command = app.add_subcommand(
        "dry-run", "Check a configuration and print parameters, bytes and the batch split");
    command->add_option("config", config, kConfigHelp)->required();
    command->add_flag("--explain", explains,
                      "Print each value first, with the line, override or default that set it");
    command
        ->add_option("--key", key, "Print the value of this key alone, e.g. run.dir: for scripts")
        ->excludes("--explain");
    command->add_option("--ranks", ranks, "Number of MPI ranks to plan for")
        ->capture_default_str()
        ->check(CLI::Range(1, kMostRanks));
    command
        ->add_option("--ranks-per-node", ranks_per_node,
                     "Ranks that share a machine like this one; all by default")
        ->check(CLI::Range(1, kMostRanks));
    command->callback([this] {
      action = [this] {
        const ConfigArguments arguments = split_config_arguments(config);
        if (!key.empty()) return print_key(arguments, key);
        if (explains) explain(arguments);
        return dry_run(arguments, ranks, ranks_per_node > 0 ? ranks_per_node : ranks);
      };
    });
  }
  void add_keys() {
    CLI::App* command = app.add_subcommand(
        "keys", "Print every key of a configuration: default, allowed values, meaning");
    command->callback([this] { action = [] { return keys(); }; });
  }
  void add_inspect() {
    CLI::App* command =
        app.add_subcommand("inspect", "Verify a checkpoint and print its tensors and state");
    command
        ->add_option("checkpoint", path, "Checkpoint directory, or a run directory for its newest")
        ->required();
    command->callback([this] { action = [this] { return inspect(path); }; });
  }
  void add_submit() {
    SubmitOptions& options = submission_options;
    CLI::App* command = app.add_subcommand(
        "submit", "Train as a Slurm job that goes on until the run is complete (docs/clusters.md)");
    command->add_option("config", config, kConfigHelp)->required();
    command->add_option("--nodes", options.nodes, "Nodes of the job")
        ->capture_default_str()
        ->check(whole_number_from(1));
    command->add_option("--gpus-per-node", options.gpus_per_node, "GPUs of a node, a rank for each")
        ->capture_default_str()
        ->check(whole_number_from(0));
    command
        ->add_option("--ranks-per-node", options.ranks_per_node,
                     "Ranks of a node; by default one for each GPU, or one")
        ->check(whole_number_from(1));
    command->add_option("--time", options.time, "Time limit of a job, as for sbatch")->required();
    command
        ->add_option("--chain", options.chain,
                     "Jobs one after the other, where a site does not requeue jobs")
        ->capture_default_str()
        ->check(whole_number_from(1));
    command
        ->add_option("--sbatch", options.sbatch,
                     "An option more for sbatch, whole: --sbatch=--partition=NAME")
        ->allow_extra_args(false);
    command->add_flag("--dry-run", options.is_dry, "Print the batch script, do nothing");
    command->callback([this] { action = [this] { return submit(config, submission_options); }; });
  }
  void add_status() {
    CLI::App* command = app.add_subcommand(
        "status", "Tell where a run stands, going on or ended: step, ETA, checkpoint, restarts");
    command->add_option("run_dir", path, "Run directory that `train` wrote")->required();
    command->callback([this] { action = [this] { return status(path); }; });
  }
  void add_report() {
    CLI::App* command = app.add_subcommand(
        "report", "Write report.html of a run, which may be going on; of several, a comparison");
    command->add_option("run_dir", runs, "Run directories that `train` wrote")->required();
    command->add_option("--out", out,
                        "Page that compares several runs; comparison.html by default");
    command->callback([this] { action = [this] { return report(runs, out); }; });
  }
  void add_doctor() {
    CLI::App* command = app.add_subcommand(
        "doctor", "Show what this machine offers; run it under mpirun to see all ranks");
    command->add_option("--run-dir", folder, "Folder of a run: do all ranks see it, is there room?")
        ->capture_default_str();
    command->callback([this] {
      action = [this] { return run_collective([this](auto& c) { return doctor(c, folder); }); };
    });
  }
};

int run(int argc, char** argv) {
  CommandLine line;
  try {
    line.app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream answer;
    const int code = line.app.exit(e, answer, std::cerr);
    std::fputs(answer.str().c_str(), stdout);
    return code == 0 ? kDone : kBadConfig;
  }
  return line.action();
}

/// `body`'s exit code, or the one that an error outside any command means: the ranks could not even
/// be started, or the answer could not be written.
int code_of(const std::function<int()>& body) {
  try {
    return body();
  } catch (const std::exception& e) {
    log::error(message_of(e));
    return exit_code_of(e);
  }
}

}  // namespace
}  // namespace stipple::trainer

int main(int argc, char** argv) {
  namespace trainer = stipple::trainer;
  stipple::prepare_standard_streams();
  const int code = trainer::code_of([&] { return trainer::run(argc, argv); });
  const int written = trainer::code_of([] {
    stipple::flush_standard_output();
    return int{trainer::kDone};
  });
  return code != trainer::kDone ? code : written;
}
