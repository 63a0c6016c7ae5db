// Holds operators to the table that they were given, and steps to the path that they state.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "counting.h"
#include "program/session.h"

namespace ek::test {

/// While it lives, kernels of `table` run, and of no other table.
class RunsOn {
 public:
  explicit RunsOn(const Kernels& table) : table_(table) { reset_calls(); }
  RunsOn(const RunsOn&) = delete;
  ~RunsOn() {
    for (const Counted& slot : g_counted) {
      const Calls calls = calls_of(slot);
      const std::string ran = calls.empty() ? "nothing" : calls.begin()->first + " of " + isa_name(slot.real.isa);
      CHECK_MESSAGE(calls.empty() == (&slot.counting != &table_), std::string(isa_name(table_.isa)), " was given, ",
                    ran, " ran");
    }
  }

 private:
  const Kernels& table_;
};

/// The kernels of which a step on a path runs one or more (none: it may do without), and those that may run beside
/// them. A path that is called like a kernel runs that one alone.
struct PathKernels {
  std::set<std::string> one_of, beside;
};
inline const std::map<std::string, PathKernels>& path_kernels() {
  static const std::map<std::string, PathKernels> paths = {
      // Beside them, what products do that quantize what they read by themselves.
      {"tile",
       {{"gemm_tile", "gemm_spread"},
        {"spread_rows", "flip_sign", "quantize_rows", "quantize_spans", "split_codes", "finish_wide", "pack_rows"}}},
      {"shallow", {{"gemm_shallow"}, {"flip_sign", "pack_rows"}}},
      {"thin", {{"gemm_thin"}, {"split_codes", "finish_wide"}}},
      {"gemv",
       {{"gemv"}, {"gemm_tile", "gemm_shallow", "quantize_rows", "quantize_spans", "pack_rows"}}},  // its last columns
      {"depthwise",
       {{"depthwise_row", "depthwise_3x3", "depthwise_run", "depthwise_f32_row"},
        {"spread_depthwise", "flip_sign", "split_codes", "finish_wide"}}},
      {"int4", {{"w4_tile", "w4_gemv"}, {"w4_quantize"}}},
      {"float", {{"gemm_f32_tile"}, {"f32_strip"}}},
      {"attention", {{"exp_scores"}, {"gemm_f32_tile", "f32_strip", "divide_f32"}}},
      {"quantize", {{"quantize", "quantize_triples", "dequantize"}, {"transpose"}}},
      {"elementwise", {{"add"}, {}}},
      {"pool", {{"max_rows", "sum_rows"}, {"requantize"}}},
      {"recurrent",
       {{"lstm_gates", "gru_update", "rnn_gate"},
        {"gru_reset", "gemm_f32_tile", "gemm_tile", "gemm_spread", "spread_rows", "gemm_thin", "gemv",
         "quantize_rows"}}},
      {"pool_f32", {{"max_box_f32", "sum_box_f32", "norm_box_f32"}, {}}},
      {"resample_row", {{"resample_row"}, {"quantize", "dequantize"}}},  // of 8 bits
      {"move", {{}, {"transpose", "transpose_words"}}},
      {"map", {{"map", "map_i64"}, {"map_load", "map_store", "map_load_i64", "map_store_i64"}}},
      {"reduce", {{"reduce_rows", "reduce_columns", "reduce_i64"}, {}}},
      {"softmax_f32", {{"softmax_f32_rows", "softmax_f32_columns"}, {}}},
      {"normalize", {{"normalize_rows"}, {}}},
      {"scan", {{"cum_sum", "cum_sum_i64", "arg_extreme", "arg_extreme_i64"}, {}}},
      {"none", {}}};
  return paths;
}

/// What is wrong about what a step ran that was given `table`; or nothing.
inline std::string wrong_of_step(Session& session, size_t step, const Kernels& table) {
  reset_calls();
  if (!session.run_step(step).ok()) return "a fault";
  const std::string path = session.path(step);
  const auto found = path_kernels().find(path);
  const bool is_kernel = std::count(std::begin(kKernelNames), std::end(kKernelNames), path) != 0;
  if (found == path_kernels().end() && !is_kernel) return "no path is called " + path;
  const auto& [one_of, beside] = found == path_kernels().end() ? PathKernels{{path}, {}} : found->second;
  bool ran = one_of.empty();
  for (const Counted& slot : g_counted) {
    for (const auto& [kernel, calls] : calls_of(slot)) {
      if (&slot.counting != &table) return kernel + " of another table ran";
      if (one_of.count(kernel) + beside.count(kernel) == 0) return path + " is said, " + kernel + " ran";
      ran = ran || one_of.count(kernel) != 0;
    }
  }
  return ran ? "" : path + " is said, nothing of it ran";
}

}  // namespace ek::test
